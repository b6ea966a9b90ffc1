"""Plays a video in real time: chunks that are outdated when the consumer asks for them are skipped."""

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

# Chunks of a recording that are read ahead of the clock.
_READ_AHEAD = 2
# How long a burst of a live stream is remembered, as a multiple of `max_hold_s`.
_BURST_MEMORY = 2
# How often a waiting consumer checks whether the reader hangs, in seconds.
_CHECK_EVERY_S = 0.5
_JOIN_S = 2.0
# Fastest pace for a sender that waits, in seconds of video a second: slightly above 1, since its clock may run fast.
_PACE = 1.01
# A consumer that starts t seconds late skips no chunk of the first `_CATCH_UP` * t seconds: it catches up at twice the
# pace.
_CATCH_UP = 2


class _Waiting(NamedTuple):
    due_s: float
    chunk: FrameChunk
    is_kept: bool  # never skipped


@dataclass
class LagMeter:
    """Statistics of how far the commentary is behind the video, in seconds."""

    count: int = 0
    total_s: float = 0.0
    max_s: float = 0.0
    last_s: float = 0.0

    def add(self, lag_s: float) -> None:
        """Add a measurement."""
        self.count += 1
        self.total_s += lag_s
        self.max_s = max(self.max_s, lag_s)
        self.last_s = lag_s

    @property
    def mean_s(self) -> float:
        """The mean of all measurements; 0 if there are none."""
        return self.total_s / self.count if self.count else 0.0


class PlayoutClock:
    """Computes when a chunk is due.

    A recording plays from its first chunk on, as in a player. A live chunk is due when it arrives; if chunks arrive in
    bursts (HLS segments, Matroska clusters), they are held back just long enough to be delivered evenly, judged by the
    bursts of the last `2 * max_hold_s` seconds, and at most for `max_hold_s`.

    Args:
        max_hold_s: longest time that a live chunk is held back, in seconds.
    """

    def __init__(self, max_hold_s: float = 2.0):
        self.max_hold_s = max_hold_s
        self.is_live = False
        self._offset_s: float | None = None  # of a recording: clock time minus video time
        self._delays_s: deque[tuple[float, float]] = deque()  # (arrival, delay), in order of falling delay

    def due_s(self, chunk: FrameChunk, now_s: float) -> float:
        """Return when the chunk's last frame is due, in seconds on the monotonic clock."""
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
        """Return the seconds since the chunk's last frame arrived, or, in a recording, since it was due."""
        if isinstance(chunk, LiveChunk):
            return now_s - chunk.arrived_s
        return now_s - (self._offset_s or 0.0) - chunk.timestamps_s[-1]


class RealTimeFeed:
    """Reads chunks in a thread, and yields each when it is due.

    At most one due chunk waits, so that the lag does not grow: a late consumer gets the newest due chunk, and the
    chunks before it count as skipped. A recording is read just ahead of the clock, which starts when the first chunk
    is requested; a live source is read as fast as it sends.

    A sender that can be made to wait, such as one that writes into a pipe, waits until the first chunk is requested,
    and whenever it is faster than the clock. Chunks that it sent before are yielded first, without pauses.

    Args:
        chunks: the video, in order, iterated in another thread; `LiveChunk`s are live, other chunks of a recording.
        clock: computes when each chunk is due.
        now_s: a monotonic clock in seconds.
        find_failure: called while the consumer waits; an exception that it returns is raised in the consumer.
        stop_reading: called when the consumer leaves, to stop a reader that waits for data.
        sender_waits: whether the sender waits while nothing is read.

    Attributes:
        skipped_frames: number of frames skipped.
        taken_frames: number of frames yielded.
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
        self._consumer_came_s: float | None = None
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
        """Start reading, unless it was started."""
        if self._thread.ident is None:
            self._thread.start()

    def wait_ready(self) -> None:
        """Wait for the first chunk.

        Raises:
            Exception: the reader's error, if it failed before that.
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
        """Stop reading. A reader that hangs in a read ends when the read returns."""
        with self._changed:
            self._is_stopped = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._stop_reading is not None:
            self._stop_reading()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def lag_s(self, chunk: FrameChunk) -> float:
        """Return the seconds since the chunk's last frame arrived (live) or was due (recording)."""
        return self._clock.lag_s(chunk, self._now_s())

    def notify(self) -> None:
        """Wake the consumer, so that it calls `find_failure`."""
        with self._changed:
            self._changed.notify_all()

    def _take(self) -> FrameChunk | None:
        with self._changed:
            if self._consumer_came_s is None:
                self._consumer_came_s = self._now_s()
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
        """Wait for a change; check regularly whether the reader hangs."""
        if self._find_failure is not None:
            if (error := self._find_failure()) is not None:
                raise error
            timeout_s = _CHECK_EVERY_S if timeout_s is None else min(timeout_s, _CHECK_EVERY_S)
        self._changed.wait(timeout_s)

    def _skip_outdated(self) -> None:
        """Skip chunks that are outdated because a newer one is due."""
        while len(self._waiting) > 1 and self._waiting[1].due_s <= self._now_s():
            first, second = self._waiting[0], self._waiting[1]
            # A last chunk of one frame does not replace the chunk before it: both belong to one turn.
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
        except BaseException as error:  # handed to the consumer
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _put(self, chunk: FrameChunk) -> bool:
        """Queue a chunk; return whether to continue. If the queue is full, wait (recording) or skip one (live)."""
        with self._changed:
            is_live, is_kept = isinstance(chunk, LiveChunk), False
            self._has_started = True
            self._changed.notify_all()
            if self._began is None:
                self._began = self._now_s(), chunk.timestamps_s[-1]
            if not is_live or self._sender_waits:
                self._changed.wait_for(lambda: self._consumer_came_s is not None or self._is_stopped)
            came_s = self._consumer_came_s
            if isinstance(chunk, LiveChunk) and self._sender_waits and came_s is not None and not self._is_stopped:
                chunk, is_kept = self._hold_back(chunk, self._began, came_s)
            due_s = self._now_s() if is_kept else self._clock.due_s(chunk, self._now_s())
            self._waiting.append(_Waiting(due_s, chunk, is_kept))
            self._changed.notify_all()
            if is_live:
                # Room for the chunks that are held back, and for one due chunk.
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

    def _hold_back(self, chunk: LiveChunk, began: tuple[float, float], came_s: float) -> tuple[LiveChunk, bool]:
        """Hold back a chunk of a sender that waits until the clock reaches the chunk's time.

        Args:
            chunk: the chunk.
            began: when the first chunk was read, and its video time, in seconds.
            came_s: when the consumer requested its first chunk, in seconds.

        Returns:
            The chunk, with the arrival time that it would have without waiting; and whether it must not be skipped.
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
