"""Tracks how far a file's packets reach and where they are missing, to tell damage from long or missing frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from livecc_hf.modeling.video_file import FALLBACK_DURATION_S, MAX_GAP_S, usual_duration

from .times import MIN_RESTART_FRAMES, SteadyClock

# A shorter stretch without packets does not count as lost data, in seconds.
_MIN_HOLE_S = 1


class PacketReach:
    """How far the packets of a file's streams reach, in seconds, with damaged jumps of their times removed.

    Methods take stream indices, since the `av` streams are gone once the file is closed.

    Args:
        streams: the `av` streams to track.
        max_gap_s: see `SteadyClock`.
    """

    def __init__(self, streams: Iterable[Any], max_gap_s: float | Fraction = MAX_GAP_S):
        self._streams = {stream.index: _StreamReach(stream, max_gap_s) for stream in streams}
        self._sounds = [reach for reach in self._streams.values() if reach.is_sound]

    def note(self, packet: Any) -> None:
        """Record the next packet of the file."""
        reach = self._streams.get(packet.stream.index)
        if reach is not None and packet.size:
            reach.note(packet, None if reach.is_sound else self.sound_end())

    def sound_end(self) -> Fraction | None:
        """Return the end of the sound so far, `None` if there is none yet."""
        return max((reach.end for reach in self._sounds if reach.end is not None), default=None)

    def end(self) -> Fraction | None:
        """Return the end of the longest stream so far, `None` if there is none yet."""
        return max((reach.end for reach in self._streams.values() if reach.end is not None), default=None)

    def end_of(self, index: int) -> Fraction | None:
        """Return the end of one stream so far, `None` if it has no packets yet."""
        return self._streams[index].end

    def n_jumps(self, index: int) -> int:
        """Return how often a stream's times jumped, ahead or back."""
        clock = self._streams[index].clock
        return clock.n_jumps + clock.n_restarts

    def lost_s(self, index: int) -> Fraction:
        """Return the seconds without packets of a video stream and without sound; 0 in a file without sound."""
        holes = self._streams[index].holes
        heard = [reach for reach in self._sounds if reach.end is not None]
        for reach in heard:
            holes = list(_common(holes, reach.holes))
        return sum((end - begin for begin, end in holes), Fraction(0)) if heard else Fraction(0)

    def goes_back(self, index: int) -> bool:
        """Return whether a stream's times ever went back."""
        return self._streams[index].goes_back


class _StreamReach:
    """End and holes of one stream's packets, in seconds."""

    def __init__(self, stream: Any, max_gap_s: float | Fraction):
        self.is_sound = stream.type == "audio"
        self._time_base = stream.time_base or FALLBACK_DURATION_S
        self._usual = max(1, round(usual_duration(stream) / self._time_base))
        self.clock = SteadyClock(self._usual, max_gap_s, second=max(1, round(1 / self._time_base)))
        self.goes_back = False
        self.holes: list[tuple[Fraction, Fraction]] = []
        self._latest: int | None = None
        self._end: int | None = None

    @property
    def end(self) -> Fraction | None:
        return None if self._end is None else self._end * self._time_base

    def note(self, packet: Any, reached: Fraction | None) -> None:
        dts, pts = packet.dts, packet.pts
        ticks = pts if dts is None else dts
        if ticks is not None:
            self.goes_back |= self._latest is not None and ticks < self._latest
            self._latest = ticks
        settled = self.clock.settle(ticks, None if reached is None else reached / self._time_base)
        if settled is None:
            return
        if pts is not None and dts is not None:
            settled += min(max(pts - dts, 0), MIN_RESTART_FRAMES * self._usual)
        if self._end is not None and (settled - self._end) * self._time_base >= _MIN_HOLE_S:
            self.holes.append((self._end * self._time_base, settled * self._time_base))
        end = settled + self.clock.length(settled, packet.duration or self._usual)
        self._end = end if self._end is None else max(self._end, end)


def _common(
    some: list[tuple[Fraction, Fraction]], others: list[tuple[Fraction, Fraction]]
) -> Iterator[tuple[Fraction, Fraction]]:
    """Yield the intersections of two lists of stretches that are at least `_MIN_HOLE_S` long."""
    for begin, end in some:
        for other_begin, other_end in others:
            common = max(begin, other_begin), min(end, other_end)
            if common[1] - common[0] >= _MIN_HOLE_S:
                yield common
