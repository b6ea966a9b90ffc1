"""Decodes video files past damage, using the sound to judge their times, and skips frames that are not needed."""

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
# Seek to starts at least this many seconds into the file; decode up to earlier ones.
_SEEK_FROM_S = 10
# How many seconds before the start to seek to, in order of tries: some containers land after the target.
_SEEK_MARGINS_S = (1, 20)


class RepairedSource(VideoSource):
    """A `VideoSource` that reads past jumps and restarts of the file's times, can seek, and can skip frames.

    The file's sound helps to tell a jump from a long frame. Seeks are used only if a time occurs at one place of the
    file.

    Args:
        path: a video file.
        keep_audio: collect the packets of the sound in `audio_packets` while reading.
        max_gap_s: a longer step of the file's times beyond the end of all packets so far is treated as damage.

    Attributes:
        header_end: end of the longest stream by the header, an estimate, in seconds; `None` if unknown.
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
        """Open a file and return it with its frames from before `start` on, after a seek if that is exact.

        Args:
            path: a video file.
            start: in seconds on the file's clock; `None`: from the first frame on.
            **options: keywords of the class.
        """
        for margin_s in _SEEK_MARGINS_S:
            if start is None:
                break
            source = cls(path, **options)
            # A start past the header's end means a damaged jump of times, or a wrong header: do not seek.
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
        """Return the time in seconds that players show as 0:00; see `clock_start`."""
        return clock_start(self.container, default)

    def skip_unless(self, wanted: Callable[[Fraction, Fraction], bool]) -> None:
        """From here on, do not decode frames that are neither wanted nor needed as references.

        `frames` yields skipped frames as a time with frame `None`. Damage inside them goes unnoticed. If the file
        otherwise turns out to differ from its packet headers, `frames` raises `SkippedFramesError`: read the file again
        without skipping.

        Args:
            wanted: takes the times in seconds when a frame appears and leaves the screen, and returns whether it must
                be decoded.
        """
        self._filter.skip_unless(wanted)

    def may_seek(self) -> bool:
        """Return whether each time occurs at one place of the file: by its index, or because times never go back."""
        name = self.container.format.name
        has_index = self.stream.frames > 0 and (name == "avi" or "mp4" in name)  # an index of all frames
        return has_index or is_seekable(self.path, self.container)

    def frames_before(self, start: Fraction, margin_s: int) -> Iterator[TimedFrame] | None:
        """Seek to `margin_s` seconds before `start`, and return the frames from a key frame before `start` on.

        Returns:
            `None` if the seek did not land there; open a new source then.
        """
        try:
            ticks = math.floor((start - margin_s) / self.stream.time_base)
            self.container.seek(ticks, stream=self.stream)
        except Exception:  # damage surfaces as many types of exception in PyAV
            return None
        frames = self.frames()
        # Frames before the first key frame may lack their reference frames.
        key = next((timed for timed in frames if timed.frame.key_frame), None)
        self.n_damaged = 0
        return itertools.chain([key], frames) if key and key.time < start else None

    def frames(self) -> Iterator[TimedFrame]:
        """Yield the remaining frames in order of time.

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
        """Yield the video's packets, the flushing packet or `None` last, even if reading stops early."""
        flushed = False
        # All streams are read: the end of the others tells a cut-off file from a short video stream.
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
        """Return the frames that become available with a packet."""
        self.n_damaged += packet is None and self._broke_off
        return super().decode(packet)

    def display_end(self, shown: TimedFrame) -> Fraction:
        """Return when the file's last frame leaves the screen, in seconds."""
        duration = (shown.frame.duration or 0) * (shown.frame.time_base or self.stream.time_base)
        return shown.time + self.clock.length(shown.time, duration, self._reach.sound_end())

    def damage(self) -> list[str]:
        """Return a description of each kind of damage found so far, including stretches without video and sound."""
        damage, faults = super().damage(), self.clock.faults()
        if (lost := self._reach.lost_s(self._index)) > 0:
            damage.append(f"{float(lost):.1f} s in it hold neither picture nor sound")
        if not faults and self._reach.n_jumps(self._index):
            faults = ["its times jump, and later parts could not be read"]
        return damage + faults

    def warn_of_damage(self, first: Fraction, last_end: Fraction, at_end: bool) -> None:
        """Warn of damage, if any was found.

        Args:
            first, last_end: the decoded range in seconds.
            at_end: whether the file was read to its end, where a cut-off file shows.
        """
        damage, end = self.damage(), self.header_end
        if at_end and end is not None and end - (self._reach.end() or 0) > _MISSING_TAIL_S:
            damage.insert(0, f"it is cut short (by its header it ends at {float(end):.1f} s)")
        warn_of_damage(self.path, first, last_end, damage)

    def _time_by_file(self, frame: Any) -> Fraction | None:
        """Return a decoded frame's time by the file, or `None`; stop skipping if it is not the frame's `pts`."""
        time_base = frame.time_base or self.stream.time_base
        ticks = self._best_effort.ticks_of(frame.pts, frame.dts)
        if frame.pts is None or ticks != frame.pts:
            self._filter.give_up()
        return None if ticks is None else ticks * time_base

    def _settle(self, time: Fraction | None) -> Fraction | None:
        """Return when the next frame appears, `None` if in the past; steps within the sound so far are not jumps."""
        return self.clock.settle(time, self._reach.sound_end())

    def _end_by_header(self) -> Fraction | None:
        if self.container.duration is None:
            return None
        # Matroska's duration counts from 0, other containers' from their start time.
        starts_at_0 = "matroska" in self.container.format.name
        start = Fraction(0) if starts_at_0 else self.clock_start()
        return start + Fraction(self.container.duration, CONTAINER_TICKS)

    def _break_off(self) -> None:
        self._broke_off = True
