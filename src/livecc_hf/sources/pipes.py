"""Wraps a pipe as a file object with a time limit for reads."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import deque

from livecc_hf.sources.errors import StalledError

_SELECT_S = 0.2
_JOIN_S = 2.0
_READ_BYTES = 1 << 18
# Bytes buffered while nobody reads, such as while a model loads; then the sender has to wait.
MAX_KEPT_BYTES = 1 << 27


class PipeReader:
    """A pipe as a file object for PyAV; a read ends at a time limit or when `stop` is set.

    A thread reads ahead, for senders that cannot wait, such as a screen recorder.

    Args:
        fd: the file descriptor.
        owns_fd: whether to close the descriptor.
        name: the pipe's name in messages.
        stall_s: longest wait for data, in seconds; `None`: no limit.
        stop: set it to end the data.
        max_kept_bytes: maximum bytes to read ahead; 0: none, so that the sender waits.
    """

    def __init__(
        self,
        fd: int,
        owns_fd: bool,
        name: str,
        stall_s: float | None,
        stop: threading.Event,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ):
        self._fd = fd
        self._owns_fd = owns_fd
        self._label = name
        self._stall_s = stall_s
        self._stop = stop
        self._max_kept_bytes = max_kept_bytes
        self._kept: deque[bytes] = deque()
        self._n_kept = 0
        self._error: OSError | None = None
        self._is_over = self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read_ahead, name="livecc-pipe", daemon=True)

    def close(self) -> None:
        """Stop reading ahead, and close the file descriptor if it is owned."""
        with self._changed:
            self._is_closed = True
            self._kept.clear()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)
        if self._owns_fd and not self._thread.is_alive():
            os.close(self._fd)
            self._owns_fd = False

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; `b""` at the end.

        Raises:
            StalledError: if no data came within `stall_s`.
            OSError: if the pipe cannot be read.
        """
        if not self._max_kept_bytes:
            return self._read_now(size)
        if self._thread.ident is None:
            self._thread.start()
        with self._changed:
            waited_from_s = time.monotonic()
            while not self._kept and not self._is_over:
                if self._stop.is_set():
                    return b""
                self._check_stall(waited_from_s)
                self._changed.wait(_SELECT_S)
            if not self._kept or self._stop.is_set():
                if self._error is not None:
                    raise self._error
                return b""
            data = self._kept.popleft()
            if len(data) > size:
                self._kept.appendleft(data[size:])
                data = data[:size]
            self._n_kept -= len(data)
            self._changed.notify_all()
            return data

    def _read_now(self, size: int) -> bytes:
        waited_from_s = time.monotonic()
        while not self._is_ready():
            if self._stop.is_set():
                return b""
            self._check_stall(waited_from_s)
        return b"" if self._stop.is_set() else os.read(self._fd, size)

    def _check_stall(self, waited_from_s: float) -> None:
        if self._stall_s is not None and time.monotonic() - waited_from_s > self._stall_s:
            raise StalledError(f"{self._label}: no data came for {self._stall_s:g} s")

    def _is_ready(self) -> bool:
        """Wait up to 0.2 s for data; return whether there is any. Always true on Windows, which cannot poll pipes."""
        return sys.platform == "win32" or bool(select.select([self._fd], [], [], _SELECT_S)[0])

    def _read_ahead(self) -> None:
        try:
            while not (self._is_closed or self._stop.is_set()):
                with self._changed:
                    if self._n_kept >= self._max_kept_bytes:
                        self._changed.wait(_SELECT_S)
                        continue
                if not self._is_ready():
                    continue
                data = os.read(self._fd, _READ_BYTES)
                with self._changed:
                    if not data:
                        break
                    self._kept.append(data)
                    self._n_kept += len(data)
                    self._changed.notify_all()
        except OSError as error:
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
