"""Decodes video files past damage, with what the sound beside them tells, and skips what nobody asks for."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Self

from livecc_hf.acceleration.video_packets import PacketFilter
from livecc_hf.modeling.video_file import (
    CONTAINER_TICKS,
    MAX_GAP_S,
    TimedFrame,
    VideoSource,
    clock_start,
    usual_duration,
    warn_of_damage,
)

from .reach import PacketReach
from .scan import demuxed, is_seekable
from .sound import choose_sound
from .times import BestEffort, SteadyClock

# A file whose packets end this long before its header says is reported as cut short.
_MISSING_TAIL_S = Fraction(1)
# A start this far into the file is worth a seek; closer ones are decoded up to.
_SEEK_FROM_S = 10
# How far before the wanted time a seek aims, one try after the other; some containers land after the point aimed at.
_SEEK_MARGINS_S = (1, 20)


class RepairedSource(VideoSource):
    """A `VideoSource` that reads past jumps and restarts of the file's times, can begin anywhere, and can skip.

    Times are weighed by the file's sound, and a time is looked up where packets show that it leads to one place.

    Args:
        path: a video file.
        keep_audio: collect the packets of its sound on the way, in `audio_packets`.
        max_gap_s: a longer step of the file's times, past all that its packets have reached, is damage.

    Attributes:
        header_end: when the longest stream ends by the header, an estimate, in seconds; `None` if it does not say.
    """

    def __init__(self, path: str | os.PathLike, keep_audio: bool = False, max_gap_s: float | Fraction = MAX_GAP_S):
        super().__init__(path)
        self.audio_packets: list[Any] = []
        self.audio_stream = choose_sound(self.container, self.stream) if keep_audio else None
        self.clock: SteadyClock[Fraction] = SteadyClock(usual_duration(self.stream), max_gap_s)
        self.header_end = self._end_by_header()
        self._best_effort = BestEffort()
        self._broke_off = False
        self._index = self.stream.index
        self._reach = PacketReach(self.container.streams, max_gap_s)
        self._filter = PacketFilter(self.stream)

    @classmethod
    def open_before(
        cls, path: str | os.PathLike, start: Fraction | None, **options: Any
    ) -> tuple[Self, Iterator[TimedFrame]]:
        """Open a file, with its frames from before `start` (seconds) on: by a seek where that is exact.

        Args:
            path: a video file.
            start: `None`: from the first frame on.
            **options: of the class.
        """
        for margin_s in _SEEK_MARGINS_S:
            if start is None:
                break
            source = cls(path, **options)
            # What lies past the end by the header is past a jump of times that is damage, or the header is wrong.
            is_far = start - source.clock_start() >= _SEEK_FROM_S and start <= (source.header_end or start)
            if not is_far or not source.may_seek():
                return source, source.frames()
            frames = source.frames_before(start, margin_s)
            if frames is not None:
                return source, frames
            source.close()
        source = cls(path, **options)
        return source, source.frames()

    def clock_start(self, default: Fraction = Fraction(0)) -> Fraction:
        """Return the earliest time over all streams by the header, in seconds."""
        return clock_start(self.container, default)

    def skip_unless(self, wanted: Callable[[Fraction, Fraction], bool]) -> None:
        """From here on, skip decoding frames that are not wanted where the others do not need them.

        Skipped frames come from `frames` as times whose frame is `None`. Damage inside them goes unseen; at any other
        sign that the file is not as its packets say, the iterator of frames raises `SkippedFramesError`: read the file
        again then, without skipping.

        Args:
            wanted: says of a frame that appears at the first and leaves the screen at the second time, in seconds,
                whether it has to be decoded.
        """
        self._filter.skip_unless(wanted)

    def may_seek(self) -> bool:
        """Return whether a time leads to one place of the file: by its index, or because its times never go back."""
        name = self.container.format.name
        has_index = self.stream.frames > 0 and (name == "avi" or "mp4" in name)  # of all of its pictures
        return has_index or is_seekable(self.path, self.container)

    def frames_before(self, start: Fraction, margin_s: int) -> Iterator[TimedFrame] | None:
        """Seek to `margin_s` before `start` (seconds), and return the frames from a key frame before `start` on.

        Returns:
            `None` if the file did not go to such a position: use another source then.
        """
        try:
            ticks = math.floor((start - margin_s) / self.stream.time_base)
            self.container.seek(ticks, stream=self.stream)
        except Exception:  # whatever PyAV makes of damage
            return None
        frames = self.frames()
        # What comes ahead of the first key frame may lack the pictures it refers to.
        key = next((timed for timed in frames if timed.frame.key_frame), None)
        self.n_damaged = 0
        return itertools.chain([key], frames) if key and key.time < start else None

    def frames(self) -> Iterator[TimedFrame]:
        """Yield the frames from here on, in order of time.

        Raises:
            SkippedFramesError: see `skip_unless`.
        """
        for packet in self._filter.needed(self.packets()):
            frames = self.decode(packet)
            if self.n_damaged:
                self._filter.give_up()
            for frame in frames:
                self.n_damaged += frame.is_corrupt
                said = self._time_by_file(frame)
                skipped = list(self._filter.skipped_before(frame))
                times = [self._settle(time) for time in (*skipped, said)]
                if frame.is_corrupt or times != [*skipped, said]:
                    self._filter.give_up()
                yield from (TimedFrame(time, None) for time in skipped)
                if times[-1] is not None:
                    yield TimedFrame(times[-1], frame)
        self.n_damaged += self._filter.check_end()

    def packets(self) -> Iterator[Any]:
        """Yield the video's packets, the flushing one last (`None`) even where reading breaks off."""
        flushed = False
        # All streams are read: how far the others reach tells a cut file from a short picture.
        for packet in demuxed(self.container, self._break_off):
            self._reach.note(packet)
            if packet.stream is self.audio_stream and packet.size:
                self.audio_packets.append(packet)
            if packet.stream is self.stream:
                flushed = packet.size == 0
                yield packet
        if not flushed:
            yield None

    def decode(self, packet: Any) -> list[Any]:
        """Return the frames that a packet completes."""
        self.n_damaged += packet is None and self._broke_off
        return super().decode(packet)

    def display_end(self, shown: TimedFrame) -> Fraction:
        """Return when the file's last frame leaves the screen, in seconds."""
        duration = (shown.frame.duration or 0) * (shown.frame.time_base or self.stream.time_base)
        return shown.time + self.clock.length(shown.time, duration, self._reach.of_sound())

    def damage(self) -> list[str]:
        """Return what was found damaged so far, for a message, with what is missing in picture and sound alike."""
        damage, faults = super().damage(), self.clock.faults()
        if (lost := self._reach.lost_s(self._index)) > 0:
            damage.append(f"{float(lost):.1f} s in it hold neither picture nor sound")
        if not faults and self._reach.n_jumps(self._index):
            faults = ["its times jump, and what follows could not be read"]
        return damage + faults

    def warn_of_damage(self, first: Fraction, last_end: Fraction, at_end: bool) -> None:
        """Warn of what could not be decoded.

        Args:
            first, last_end: the range in seconds that could.
            at_end: whether the file was read to its end, where a missing tail shows.
        """
        damage, end = self.damage(), self.header_end
        if at_end and end is not None and end - (self._reach.of_all() or 0) > _MISSING_TAIL_S:
            damage.insert(0, f"it is cut short (by its header it ends at {float(end):.1f} s)")
        warn_of_damage(self.path, first, last_end, damage)

    def _time_by_file(self, frame: Any) -> Fraction | None:
        """Return when a decoded frame appears as the file says, `None` if it does not; a made-up time ends skipping."""
        time_base = frame.time_base or self.stream.time_base
        ticks = self._best_effort.ticks_of(frame.pts, frame.dts)
        if frame.pts is None or ticks != frame.pts:
            self._filter.give_up()
        return None if ticks is None else ticks * time_base

    def _settle(self, time: Fraction | None) -> Fraction | None:
        """Return when the next frame appears, which is no jump as far as the sound reaches; `None`: in the past."""
        return self.clock.settle(time, self._reach.of_sound())

    def _end_by_header(self) -> Fraction | None:
        if self.container.duration is None:
            return None
        # Matroska counts its duration from 0, the others from where they start.
        starts_at_0 = "matroska" in self.container.format.name
        start = Fraction(0) if starts_at_0 else self.clock_start()
        return start + Fraction(self.container.duration, CONTAINER_TICKS)

    def _break_off(self) -> None:
        self._broke_off = True
