"""A pipe as a file object whose reads end."""

from __future__ import annotations

import os
import select
import sys
import threading
import time

from livecc_hf.sources.errors import StalledError

_SELECT_S = 0.2


class PipeReader:
    """A pipe as a file object for PyAV, whose reads end with a time limit or when asked to.

    Args:
        fd: the file descriptor.
        owns_fd: whether to close it.
        name: how messages call it.
        stall_s: longest wait for data; `None`: for ever.
        stop: set to end the data.
    """

    def __init__(self, fd: int, owns_fd: bool, name: str, stall_s: float | None, stop: threading.Event):
        self._fd = fd
        self._owns_fd = owns_fd
        self._label = name
        self._stall_s = stall_s
        self._stop = stop

    def close(self) -> None:
        """Close the file descriptor, if it is owned."""
        if self._owns_fd:
            os.close(self._fd)
            self._owns_fd = False

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end.

        Raises:
            StalledError: nothing came.
        """
        waited_from_s = time.monotonic()
        # Windows cannot wait for pipes; there a read waits by itself.
        while sys.platform != "win32" and not select.select([self._fd], [], [], _SELECT_S)[0]:
            if self._stop.is_set():
                return b""
            if self._stall_s is not None and time.monotonic() - waited_from_s > self._stall_s:
                raise StalledError(f"{self._label}: nothing came for {self._stall_s:g} s")
        return b"" if self._stop.is_set() else os.read(self._fd, size)
