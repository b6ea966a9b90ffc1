"""Decodes video files past damage, with what the sound beside them tells, and skips what nobody asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from livecc_hf.acceleration.video_packets import PacketFilter
from livecc_hf.modeling.video_file import TimedFrame, VideoSource
from livecc_hf.modeling.video_times import MAX_GAP_S, SteadyClock, usual_duration

from .reach import PacketReach
from .scan import is_seekable
from .sound import choose_sound


class RepairedSource(VideoSource):
    """A `VideoSource` that also weighs times by the file's sound, seeks where packets show that it may, and can skip.

    Args:
        path: a video file.
        keep_audio: collect the packets of its sound on the way, in `audio_packets`.
        max_gap_s: a longer step of the file's times, past all that its packets have reached, is damage.
    """

    def __init__(self, path: str | os.PathLike, keep_audio: bool = False, max_gap_s: float | Fraction = MAX_GAP_S):
        super().__init__(path)
        self.audio_packets: list[Any] = []
        self.audio_stream = choose_sound(self.container, self.stream) if keep_audio else None
        self.clock = SteadyClock(usual_duration(self.stream), max_gap_s)
        self._index = self.stream.index
        self._reach = PacketReach(self.container.streams, max_gap_s)
        self._filter = PacketFilter(self.stream)

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
        return super().may_seek() or is_seekable(self.path, self.container)

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
                said = self.time_by_file(frame)
                skipped = list(self._filter.skipped_before(frame))
                times = [self.settle(time) for time in (*skipped, said)]
                if frame.is_corrupt or times != [*skipped, said]:
                    self._filter.give_up()
                yield from (TimedFrame(time, None) for time in skipped)
                if times[-1] is not None:
                    yield TimedFrame(times[-1], frame)
        self.n_damaged += self._filter.check_end()

    def time_by_file(self, frame: Any) -> Fraction | None:
        """Return when a decoded frame appears as the file says; a time that is made up ends skipping."""
        time = super().time_by_file(frame)
        if frame.pts is None or time != frame.pts * (frame.time_base or self.stream.time_base):
            self._filter.give_up()
        return time

    def note(self, packet: Any) -> None:
        """Take account of a packet of any stream."""
        self._reach.note(packet)
        if packet.stream is self.audio_stream and packet.size:
            self.audio_packets.append(packet)

    def settle(self, time: Fraction | None) -> Fraction | None:
        """Return when the next frame appears, which is no jump as far as the sound reaches."""
        return self.clock.settle(time, self._reach.of_sound())

    def reached(self) -> Fraction:
        """Return how far the longest stream was read, in seconds."""
        return self._reach.of_all() or Fraction(0)

    def display_end(self, shown: TimedFrame) -> Fraction:
        """Return when the file's last frame leaves the screen, in seconds."""
        duration = (shown.frame.duration or 0) * (shown.frame.time_base or self.stream.time_base)
        return shown.time + self.clock.length(shown.time, duration, self._reach.of_sound())

    def damage(self, at_end: bool) -> list[str]:
        """Return what was found damaged, with what is missing in picture and sound alike."""
        damage = super().damage(at_end)
        n_faults = len(self.clock.faults())
        if (lost := self._reach.lost_s(self._index)) > 0:
            damage.insert(len(damage) - n_faults, f"{float(lost):.1f} s in it hold neither picture nor sound")
        if not n_faults and self._reach.n_jumps(self._index):
            damage.append("its times jump, and what follows could not be read")
        return damage
