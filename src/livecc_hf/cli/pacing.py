"""Feeds frames to a model at the clock's pace, as a camera would: what comes too late is skipped."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_hf.modeling.video_reader_livecc import FrameChunk


@dataclass
class LagMeter:
    """How far behind the clock the commentary is, in seconds."""

    count: int = 0
    total_s: float = 0.0
    max_s: float = 0.0
    last_s: float = 0.0

    def add(self, lag_s: float) -> None:
        """Count one more measurement."""
        self.count += 1
        self.total_s += lag_s
        self.max_s = max(self.max_s, lag_s)
        self.last_s = lag_s

    @property
    def mean_s(self) -> float:
        """The mean of all measurements; 0 without any."""
        return self.total_s / self.count if self.count else 0.0


class RealTimeFeed:
    """Gives chunks out when the clock reaches their last frame's time; the newest win.

    A thread reads ahead of the clock and puts each chunk into a mailbox when it is due. A taker who comes
    late finds the newest chunk there, and those it replaced are counted as skipped. The clock starts with the
    iteration.

    Args:
        chunks: the video, in order; read in another thread.
        now_s: a monotonic clock in seconds.
    """

    def __init__(self, chunks: Iterable[FrameChunk], now_s: Callable[[], float] = time.monotonic):
        self._chunks = chunks
        self._now_s = now_s
        self._changed = threading.Condition()
        self._waiting: deque[FrameChunk] = deque()
        self._is_over = False
        self._is_stopped = False
        self._error: BaseException | None = None
        self._offset_s = 0.0  # clock time minus video time
        self.skipped_frames = 0

    def __iter__(self) -> Iterator[FrameChunk]:
        thread = threading.Thread(target=self._play, name="livecc-feed", daemon=True)
        thread.start()
        try:
            while (chunk := self._take()) is not None:
                yield chunk
        finally:
            with self._changed:
                self._is_stopped = True
                self._changed.notify_all()
            thread.join()

    def lag_s(self, time_s: float) -> float:
        """How many seconds of clock time have passed since the frame of this sample time was due."""
        return self._now_s() - self._offset_s - time_s

    def _take(self) -> FrameChunk | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            if self._waiting:
                return self._waiting.popleft()
            if self._error is not None:
                raise self._error
            return None

    def _play(self) -> None:
        try:
            for number, chunk in enumerate(self._chunks):
                if number == 0:
                    self._offset_s = self._now_s() - chunk.timestamps_s[0]
                if not self._put_when_due(chunk):
                    return
        except BaseException as error:  # handed to the taker
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _put_when_due(self, chunk: FrameChunk) -> bool:
        """Wait for the chunk's time and put it; `False` if the taker has stopped."""
        with self._changed:
            while not self._is_stopped and (early_s := -self.lag_s(chunk.timestamps_s[-1])) > 0:
                self._changed.wait(early_s)
            # At most one chunk waits; a shorter last one is left to follow it, so that no turn is torn apart.
            while self._waiting and len(chunk.timestamps_s) >= len(self._waiting[0].timestamps_s):
                self.skipped_frames += len(self._waiting.popleft().timestamps_s)
            self._waiting.append(chunk)
            self._changed.notify_all()
            return not self._is_stopped
