"""The clock of a stream, over cuts, jumps and times that go back, and the frames sampled on it."""

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

# If a time goes back by less, the frame is late and is skipped; by more, the sender has started again.
_LATE_FRAME_S = Fraction(1)
# A live stream's time that runs ahead of the wall clock by more has jumped.
_JUMP_S = Fraction(5)
# After a cut, a sender's time that is off the wall clock by less is that of a clock that went on.
_SAME_CLOCK_S = Fraction(2)
# A live sender whose time stands still for longer while pictures come has no clock; their arrival counts.
_FROZEN_S = 2.0
# Pictures further apart do not come one after the other.
_NEXT_PICTURE_S = 1.0
# Clocks differ in speed by less: the least delay seen so far is forgotten at this rate.
_DRIFT = Fraction(1, 5000)
# A live picture that stands still for longer is not repeated: nothing was sent.
_LIVE_REPEAT_S = Fraction(2)
_STEP = Fraction(FRAME_STEP_S)
_DENOMINATOR = 90_000


@dataclass(frozen=True)
class ArrivedFrame:
    """A decoded frame.

    Attributes:
        frame: an `av.VideoFrame`.
        pts: its presentation time in seconds on the sender's clock; `None` if it has none.
        duration: how long it is usually shown, in seconds.
        arrived_s: when its data was read, on the monotonic clock.
        waited_s: seconds between its arrival and the read, as far as known: data that comes while a connection opens is
            read later.
    """

    frame: Any
    pts: Fraction | None
    duration: Fraction
    arrived_s: float
    waited_s: float = 0.0

    @property
    def came(self) -> Fraction:
        """The time of its arrival, in seconds on the monotonic clock."""
        return Fraction(self.arrived_s - self.waited_s).limit_denominator(_DENOMINATOR)


@dataclass(frozen=True)
class LiveChunk(FrameChunk):
    """Consecutive sampled frames of a live source.

    Attributes:
        arrived_s: when the last picture's data arrived, on the monotonic clock (`time.monotonic`).
    """

    arrived_s: float


class _LastFrame(NamedTuple):
    time: Fraction  # the stream's
    came: Fraction  # on the monotonic clock
    delay: Fraction  # the least so far: arrival minus stream time


class StreamClock:
    """Converts the sender's times to seconds from the stream's start, which never go back.

    During a connection, the stream's time follows the sender's, over any pause. It follows the wall clock if the
    sender's times go back, jump, or stand still while pictures come, and after a cut, unless the sender's clock ran on
    with the wall clock.

    A frame arrives late by the delay of network and container (a packet of MPEG-TS waits until the next one begins, a
    cluster of Matroska until it is full). The least delay so far is the reference: a frame that would arrive before its
    time by that reference has jumped ahead.

    Args:
        is_live: whether the wall clock decides if times jump ahead; in a recording, a jump is a picture that stays.
        max_gap_s: in a recording, a longer jump is damage, since no picture stays for longer.
        origin: in a recording, the sender's time at 0; if the first frame is later, that one is at 0. Frames before the
            origin have negative times and are not sampled.
    """

    def __init__(self, is_live: bool, max_gap_s: float = MAX_GAP_S, origin: Fraction | None = None):
        self.is_live = is_live
        self.max_gap_s = max_gap_s
        self._origin = origin
        self.n_jumps = 0
        self.n_late_frames = 0
        self._offset: Fraction | None = None  # stream time minus the sender's
        self._last_offset: Fraction | None = None  # the same, of the connection before
        self._last: _LastFrame | None = None
        self._still_s = 0.0  # for how long pictures have come whose time did not move
        self._is_frozen = False

    def cut(self) -> None:
        """Note the end of a connection: the next frame's time may be on another clock."""
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
        """Return whether a frame of this time came from the future; in a recording, from too far ahead."""
        step = time - last.time
        if not self.is_live:
            return step > self.max_gap_s
        return step > _JUMP_S and time - (came - last.delay) > _JUMP_S

    def _after_cut(self, arrived: ArrivedFrame, last: _LastFrame) -> Fraction:
        """Return the time of a connection's first frame: by the sender's clock if that is the one of before."""
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

    Sample time `n / 2` takes the picture on screen just before it. Only sampled pictures are converted to RGB, and
    resized to the first picture's size if the size changes. A chunk is the two frames of one second, `n` and `n + 0.5`;
    seconds without a picture are left out whole.

    Args:
        clock: the stream's clock.
    """

    def __init__(self, clock: StreamClock):
        self.clock = clock
        self.n_size_changes = 0
        self._shown: tuple[Fraction, ArrivedFrame] | None = None  # the picture on screen, and since when
        self._stored_px: tuple[int, int] | None = None  # of the first picture
        self._size_px: tuple[int, int] | None = None  # of the latest
        self._next = 0  # number of the next sample
        self._pending: list[tuple[torch.Tensor, float, float]] = []  # (frame, sample time, arrival)

    @property
    def is_empty(self) -> bool:
        """Whether no frame has come yet."""
        return self._stored_px is None

    def add(self, arrived: ArrivedFrame) -> Iterator[FrameChunk]:
        """Take the next frame, and yield the chunks that it completes."""
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
        """End a connection; yield the complete chunks, with the last frame repeated to fill its second."""
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
        """Sample the last picture for its usual time."""
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
