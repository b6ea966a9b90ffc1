"""The continuous clock of a stream, across interruptions and jumps of timestamps, and the sampling of its frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from livecc_hf.modeling.grammar import FRAME_STEP_S, TURN_FRAMES
from livecc_hf.modeling.video_file import MAX_GAP_S, display_orientation, frame_to_rgb
from livecc_hf.video.reader import FrameChunk

# A time that goes back by up to this belongs to a late frame, which is skipped; by more, the sender has restarted.
_LATE_FRAME_S = Fraction(1)
# A live stream's time that is ahead of the wall clock by more than this has jumped.
_JUMP_S = Fraction(5)
# After a reconnection, a sender's clock that differs from the wall clock by up to this has continued.
_SAME_CLOCK_S = Fraction(2)
# A live sender whose time stands still for longer while frames arrive has no clock; their arrival is used instead.
_FROZEN_S = 2.0
# Longest gap between arrivals that counts towards `_FROZEN_S`, in seconds.
_NEXT_PICTURE_S = 1.0
# Bound on the difference in speed of two clocks: the least delay so far may grow at this rate.
_DRIFT = Fraction(1, 5000)
# A live frame is repeated for at most this long; in a longer gap nothing was sent.
_LIVE_REPEAT_S = Fraction(2)
_STEP = Fraction(FRAME_STEP_S)
_DENOMINATOR = 90_000


@dataclass(frozen=True)
class ArrivedFrame:
    """A decoded frame.

    Attributes:
        frame: an `av.VideoFrame`.
        pts: its presentation time in seconds on the sender's clock; `None` if it has none.
        duration: the usual duration of a frame, in seconds.
        arrived_s: when its data was read, on the monotonic clock.
        waited_s: seconds between its arrival and the read, if known: data that arrives while a connection opens is read
            later.
    """

    frame: Any
    pts: Fraction | None
    duration: Fraction
    arrived_s: float
    waited_s: float = 0.0

    @property
    def came(self) -> Fraction:
        """The time of arrival, in seconds on the monotonic clock."""
        return Fraction(self.arrived_s - self.waited_s).limit_denominator(_DENOMINATOR)


@dataclass(frozen=True)
class LiveChunk(FrameChunk):
    """Consecutive sampled frames of a live source.

    Attributes:
        arrived_s: when the data of the last frame arrived, in seconds of `time.monotonic`.
    """

    arrived_s: float


class _LastFrame(NamedTuple):
    time: Fraction  # on the stream's clock
    came: Fraction  # on the monotonic clock
    delay: Fraction  # the least so far of: arrival minus stream time


class StreamClock:
    """Converts the sender's times to seconds from the stream's start, which never go back.

    During a connection, the stream's time follows the sender's, across pauses of any length. It follows the wall clock
    if the sender's times go back, jump, or stand still while frames arrive, and after a reconnection, unless the
    sender's clock continued with the wall clock.

    Network and container delay the arrival of frames (MPEG-TS by a frame, Matroska until its cluster is full). The
    least delay so far is the reference: a frame whose time lies ahead of its arrival by this reference has jumped.

    Args:
        is_live: whether the wall clock decides if times jump ahead; in a recording, a jump is a frame that stays.
        max_gap_s: in a recording, a longer jump counts as damage, since no frame stays for longer; in seconds.
        origin: in a recording, the sender's time at 0; if the first frame is later, that one is at 0. Frames before the
            origin have negative times and are not sampled.

    Attributes:
        n_jumps: number of jumps.
        n_late_frames: number of late frames.
    """

    def __init__(self, is_live: bool, max_gap_s: float = MAX_GAP_S, origin: Fraction | None = None):
        self.is_live = is_live
        self.max_gap_s = max_gap_s
        self._origin = origin
        self.n_jumps = 0
        self.n_late_frames = 0
        self._offset: Fraction | None = None  # stream time minus sender's time
        self._last_offset: Fraction | None = None  # the same in the previous connection
        self._last: _LastFrame | None = None
        self._still_s = 0.0  # for how long frames have arrived without an advance of their time
        self._is_frozen = False

    def cut(self) -> None:
        """Record the end of a connection: the next frame's time may be on another clock."""
        self._last_offset = None if self._is_frozen else self._offset
        self._offset = None
        self._is_frozen = False
        self._still_s = 0.0

    def time_of(self, arrived: ArrivedFrame) -> Fraction | None:
        """Return the frame's time in seconds from the stream's start; `None` for a late frame, to be skipped."""
        came, last = arrived.came, self._last
        if last is None:
            time = Fraction(0)
            if self._origin is not None and arrived.pts is not None:
                time = min(arrived.pts - self._origin, time)
        elif self._is_frozen:
            time = self._by_wall_clock(arrived, last)
        elif self._offset is None:
            time = self._after_cut(arrived, last)
        elif arrived.pts is None:
            time = last.time + arrived.duration
        else:
            time = arrived.pts + self._offset
            step = time - last.time
            self._still_s += min(float(came - last.came), _NEXT_PICTURE_S) if step <= 0 else -self._still_s
            self._is_frozen = self.is_live and self._still_s > _FROZEN_S
            if -_LATE_FRAME_S <= step < 0 and not self._is_frozen:
                self.n_late_frames += 1
                self._last = last._replace(came=came)
                return None
            if self._is_frozen or step < 0 or self._has_jumped(time, came, last):
                self.n_jumps += 1
                time = self._by_wall_clock(arrived, last)
        self._note(arrived, time)
        return time

    def _note(self, arrived: ArrivedFrame, time: Fraction) -> None:
        came = arrived.came
        if arrived.pts is not None:
            self._offset = time - arrived.pts
        elif self._offset is None:
            self._offset = time
        delay, last = came - time, self._last
        if last is not None:
            delay = min(delay, last.delay + max(came - last.came, Fraction(0)) * _DRIFT)
        self._last = _LastFrame(time, came, delay)

    def _has_jumped(self, time: Fraction, came: Fraction, last: _LastFrame) -> bool:
        """Return whether this time is ahead of the frame's arrival; in a recording, whether the step is too long."""
        step = time - last.time
        if not self.is_live:
            return step > self.max_gap_s
        return step > _JUMP_S and time - (came - last.delay) > _JUMP_S

    def _after_cut(self, arrived: ArrivedFrame, last: _LastFrame) -> Fraction:
        """Return the time of a connection's first frame: by the sender's clock if it continued, else the wall clock."""
        by_wall_clock = self._by_wall_clock(arrived, last)
        if self._last_offset is not None and arrived.pts is not None:
            time = arrived.pts + self._last_offset
            if time > last.time and abs(time - by_wall_clock) <= _SAME_CLOCK_S:
                return time
        return by_wall_clock

    def _by_wall_clock(self, arrived: ArrivedFrame, last: _LastFrame) -> Fraction:
        usual = last.time + arrived.duration
        return max(usual, arrived.came - last.delay) if self.is_live else usual


class LiveFrameSampler:
    """Samples two frames a second in whole-second pairs, by the file reader's rule.

    Sample time `n / 2` takes the frame that is shown just before it. Only sampled frames are converted to RGB, and
    resized to the size of the first frame if the size changes. A chunk is the two frames of one second, `n` and
    `n + 0.5`; a second without frames has no chunk.

    Args:
        clock: the stream's clock.

    Attributes:
        n_size_changes: number of changes of the frame size.
    """

    def __init__(self, clock: StreamClock):
        self.clock = clock
        self.n_size_changes = 0
        self._shown: tuple[Fraction, ArrivedFrame] | None = None  # since when, and the frame that is shown
        self._stored_px: tuple[int, int] | None = None  # size of the first frame
        self._size_px: tuple[int, int] | None = None  # size of the latest frame
        self._next = 0  # number of the next sample
        self._pending: list[tuple[torch.Tensor, float, float]] = []  # (frame, sample time, arrival)

    @property
    def is_empty(self) -> bool:
        """Whether no frame has come yet."""
        return self._stored_px is None

    def add(self, arrived: ArrivedFrame) -> Iterator[FrameChunk]:
        """Add the next frame, and yield the chunks that it completes."""
        time = self.clock.time_of(arrived)
        if time is None:
            return
        self._note_size(arrived.frame)
        if self._shown is not None and self.clock.is_live and time - self._shown[0] > _LIVE_REPEAT_S:
            yield from self._leave_out()
        if self._shown is None:
            self._next = max(self._next, math.ceil(time / _STEP / TURN_FRAMES) * TURN_FRAMES)
        else:
            yield from self._sample_until(self._shown[1], time)
        self._shown = (time, arrived)

    def cut(self) -> Iterator[FrameChunk]:
        """End a connection; yield the rest, with the last frame repeated to complete its second."""
        yield from self._leave_out()
        self.clock.cut()

    def end(self) -> Iterator[FrameChunk]:
        """End the stream; yield the rest, which may be one frame."""
        yield from self._show_out()
        if self._pending:
            yield self._chunk()

    def _note_size(self, frame: Any) -> None:
        size_px = (frame.width, frame.height)
        if self._stored_px is None:
            self._stored_px, self._orientation = size_px, display_orientation(frame)
        elif size_px != self._size_px:
            self.n_size_changes += 1
        self._size_px = size_px

    def _leave_out(self) -> Iterator[FrameChunk]:
        yield from self._show_out()
        if self._pending:
            frame, _, arrived_s = self._pending[-1]
            yield from self._take(frame, arrived_s)

    def _show_out(self) -> Iterator[FrameChunk]:
        """Sample the last frame for its usual duration."""
        if self._shown is not None:
            time, arrived = self._shown
            yield from self._sample_until(arrived, time + arrived.duration, is_last=True)
            self._shown = None

    def _sample_until(self, arrived: ArrivedFrame, leaves: Fraction, is_last: bool = False) -> Iterator[FrameChunk]:
        image = None
        while (sample := self._next * _STEP) < leaves or (sample == leaves and not is_last):
            if image is None:
                size_px = self._stored_px or (arrived.frame.width, arrived.frame.height)
                image = frame_to_rgb(arrived.frame, self._orientation, size_px)
            yield from self._take(image, arrived.arrived_s)

    def _take(self, image: torch.Tensor, arrived_s: float) -> Iterator[FrameChunk]:
        self._pending.append((image, float(self._next * _STEP), arrived_s))
        self._next += 1
        if len(self._pending) == TURN_FRAMES:
            yield self._chunk()

    def _chunk(self) -> FrameChunk:
        frames, times_s, arrivals_s = zip(*self._pending, strict=True)
        self._pending = []
        if self.clock.is_live:
            return LiveChunk(torch.stack(frames), list(times_s), arrivals_s[-1])
        return FrameChunk(torch.stack(frames), list(times_s))
