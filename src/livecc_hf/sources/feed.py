"""Hands a video out at the pace at which it happens: what its taker is too late for is skipped, the newest wins."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from livecc_hf.sources.timeline import LiveChunk

if TYPE_CHECKING:
    from livecc_hf.video.reader import FrameChunk

# A recording is read this many chunks ahead of the clock.
_READ_AHEAD = 2
# For how long a burst of a live stream is remembered, as a multiple of the longest time to hold back.
_BURST_MEMORY = 2
# How often a taker that waits looks whether the reader is stuck.
_CHECK_EVERY_S = 0.5
_JOIN_S = 2.0
# What comes faster than this, in seconds of video a second, is made to wait where its sender can; a sender's clock may
# be a little faster than ours.
_PACE = 1.01
# A taker who came late gets all of this many times what it had missed, which is how long it takes to catch up at twice
# the clock's pace.
_CATCH_UP = 2


class _Waiting(NamedTuple):
    due_s: float
    chunk: FrameChunk
    is_kept: bool  # never skipped


@dataclass
class LagMeter:
    """How far behind the video the commentary is, in seconds."""

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


class PlayoutClock:
    """Says when a chunk is due.

    A recording plays from its first chunk on, as in a player. What arrives live is due when it arrives; where it
    arrives in bursts (segments of HLS, clusters of Matroska) it is held back just long enough to go out evenly,
    as far as the last `2 * max_hold_s` showed such bursts, and `max_hold_s` at most.

    Args:
        max_hold_s: longest time that a live chunk is held back, in seconds.
    """

    def __init__(self, max_hold_s: float = 2.0):
        self.max_hold_s = max_hold_s
        self.is_live = False
        self._offset_s: float | None = None  # of a recording: clock time minus video time
        self._delays_s: deque[tuple[float, float]] = deque()  # (arrival, its delay), delays falling

    def due_s(self, chunk: FrameChunk, now_s: float) -> float:
        """Return the time on the monotonic clock at which the chunk's last frame is to be shown."""
        time_s = chunk.timestamps_s[-1]
        self.is_live = isinstance(chunk, LiveChunk)
        if not isinstance(chunk, LiveChunk):
            if self._offset_s is None:
                self._offset_s = now_s - chunk.timestamps_s[0]
            return self._offset_s + time_s
        arrived_s, delays = chunk.arrived_s, self._delays_s
        while delays and delays[-1][1] <= arrived_s - time_s:
            delays.pop()
        delays.append((arrived_s, arrived_s - time_s))
        while delays[0][0] < arrived_s - _BURST_MEMORY * self.max_hold_s:
            delays.popleft()
        return min(time_s + delays[0][1], arrived_s + self.max_hold_s)

    def lag_s(self, chunk: FrameChunk, now_s: float) -> float:
        """Seconds since the chunk's last frame arrived, or since it was due if it is of a recording."""
        if isinstance(chunk, LiveChunk):
            return now_s - chunk.arrived_s
        return now_s - (self._offset_s or 0.0) - chunk.timestamps_s[-1]


class RealTimeFeed:
    """Reads chunks in a thread and gives each out when it is due; the newest win.

    A taker who comes late finds the newest chunk that is due, and those before it are counted as skipped. At most
    one chunk that is due waits, so the lag never grows. A recording is read just ahead of the clock, which starts when
    the taker comes; a live source is read as fast as it comes.

    A live source whose sender waits while nothing is read, as one into a pipe does, is made to wait: until the taker
    comes, and where it is faster than the clock. What it had sent by then is given out first, without a pause.

    Args:
        chunks: the video, in order; read in another thread. Each `LiveChunk` is live.
        sender_waits: whether the sender waits while nothing is read.
        clock: when each is due.
        now_s: a monotonic clock in seconds.
        find_failure: called while the taker waits; an exception it returns is raised, and the reader left alone.
        stop_reading: called when the taker leaves, to free a reader that waits.
    """

    def __init__(
        self,
        chunks: Iterable[FrameChunk],
        clock: PlayoutClock | None = None,
        now_s: Callable[[], float] = time.monotonic,
        find_failure: Callable[[], BaseException | None] | None = None,
        stop_reading: Callable[[], None] | None = None,
        sender_waits: bool = False,
    ):
        self._chunks = chunks
        self._sender_waits = sender_waits
        self._began: tuple[float, float] | None = None  # when the first chunk came, and its video time
        self._taker_came_s: float | None = None
        self._clock = clock or PlayoutClock()
        self._now_s = now_s
        self._find_failure = find_failure
        self._stop_reading = stop_reading
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._has_started = self._is_over = self._is_stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="livecc-feed", daemon=True)
        self.skipped_frames = 0
        self.taken_frames = 0

    def start(self) -> None:
        """Start to read, if that has not been done."""
        if self._thread.ident is None:
            self._thread.start()

    def wait_ready(self) -> None:
        """Return when a first chunk is there.

        Raises:
            Exception: what the reader raised instead.
        """
        self.start()
        with self._changed:
            while not (self._has_started or self._is_over):
                self._wait(None)
            if self._error is not None and not self._has_started:
                raise self._error

    def __iter__(self) -> Iterator[FrameChunk]:
        self.start()
        try:
            while (chunk := self._take()) is not None:
                self.taken_frames += len(chunk.timestamps_s)
                yield chunk
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading. A reader that hangs in a read of its own ends when that does."""
        with self._changed:
            self._is_stopped = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._stop_reading is not None:
            self._stop_reading()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def lag_s(self, chunk: FrameChunk) -> float:
        """Return how many seconds ago the chunk's last frame arrived (live) or was due (a recording)."""
        return self._clock.lag_s(chunk, self._now_s())

    def notify(self) -> None:
        """Wake the taker, who then looks at `find_failure`."""
        with self._changed:
            self._changed.notify_all()

    def _take(self) -> FrameChunk | None:
        with self._changed:
            if self._taker_came_s is None:
                self._taker_came_s = self._now_s()
                self._changed.notify_all()
            while not self._is_stopped:
                self._skip_outdated()
                early_s = self._waiting[0].due_s - self._now_s() if self._waiting else None
                if early_s is not None and early_s <= 0:
                    chunk = self._waiting.popleft().chunk
                    self._changed.notify_all()
                    return chunk
                if not self._waiting and self._is_over:
                    break
                self._wait(early_s)
            if self._error is not None:
                raise self._error
            return None

    def _wait(self, timeout_s: float | None) -> None:
        """Wait for a change, looking now and then whether the reader is stuck."""
        if self._find_failure is not None:
            if (error := self._find_failure()) is not None:
                raise error
            timeout_s = _CHECK_EVERY_S if timeout_s is None else min(timeout_s, _CHECK_EVERY_S)
        self._changed.wait(timeout_s)

    def _skip_outdated(self) -> None:
        """Drop chunks that a newer one has made outdated."""
        while len(self._waiting) > 1 and self._waiting[1].due_s <= self._now_s():
            first, second = self._waiting[0], self._waiting[1]
            # A shorter last chunk is left to follow the one before it, so that no turn is torn apart.
            if first.is_kept or len(second.chunk.timestamps_s) < len(first.chunk.timestamps_s):
                break
            self._skip_first()

    def _skip_first(self) -> None:
        self.skipped_frames += len(self._waiting.popleft().chunk.timestamps_s)

    def _read(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                chunks = iter(self._chunks)
                if hasattr(chunks, "close"):
                    stack.callback(chunks.close)
                for chunk in chunks:
                    if not self._put(chunk):
                        return
        except BaseException as error:  # handed to the taker
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _put(self, chunk: FrameChunk) -> bool:
        """Queue a chunk; a recording waits for room, a live source makes it. `False` if the taker has left."""
        with self._changed:
            is_live, is_kept = isinstance(chunk, LiveChunk), False
            self._has_started = True
            self._changed.notify_all()
            if self._began is None:
                self._began = self._now_s(), chunk.timestamps_s[-1]
            if not is_live or self._sender_waits:
                self._changed.wait_for(lambda: self._taker_came_s is not None or self._is_stopped)
            came_s = self._taker_came_s
            if isinstance(chunk, LiveChunk) and self._sender_waits and came_s is not None and not self._is_stopped:
                chunk, is_kept = self._held_back(chunk, self._began, came_s)
            due_s = self._now_s() if is_kept else self._clock.due_s(chunk, self._now_s())
            self._waiting.append(_Waiting(due_s, chunk, is_kept))
            self._changed.notify_all()
            if is_live:
                # What may be held back, and one for a taker who is late.
                room = 1 + math.ceil(self._clock.max_hold_s / (len(chunk.timestamps_s) / 2))
                while len(self._waiting) > room and not self._is_stopped:
                    if self._waiting[0].is_kept:
                        self._changed.wait()
                    else:
                        self._skip_first()
            while not is_live and not self._is_stopped:
                self._skip_outdated()
                if len(self._waiting) < _READ_AHEAD:
                    break
                self._changed.wait(max(self._waiting[1].due_s - self._now_s(), 0.001))
            return not self._is_stopped

    def _held_back(self, chunk: LiveChunk, began: tuple[float, float], came_s: float) -> tuple[LiveChunk, bool]:
        """Hold a chunk of a sender that waits until the clock has come to it.

        Args:
            chunk: the chunk.
            began: when the first chunk came, and its video time.
            came_s: when the taker came.

        Returns:
            The chunk, as having come when it would have if nobody had had to wait; and whether it is to be kept.
        """
        began_s, first_s = began
        time_s, is_early = chunk.timestamps_s[-1] - first_s, False
        while not self._is_stopped and (early_s := began_s + time_s / _PACE - self._now_s()) > 0:
            is_early = True
            self._changed.wait(early_s)
        is_kept = time_s <= _CATCH_UP * (came_s - began_s)
        if is_early:
            return replace(chunk, arrived_s=self._now_s()), is_kept
        return (replace(chunk, arrived_s=min(chunk.arrived_s, began_s + time_s)) if is_kept else chunk), is_kept
