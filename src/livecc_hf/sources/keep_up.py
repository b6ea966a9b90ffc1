"""Skips decoding of frames while decoding is slower than the stream."""

from __future__ import annotations

from typing import Any


class KeepUp:
    """Makes the decoder skip frames while decoding is slower than the stream.

    Decoding is too slow if, over a second, the next packet was nearly always waiting and the stream's time still
    advanced slower than the clock. Then non-reference frames are skipped, and after another such second all but key
    frames. Once the decoder has to wait for packets again, all frames are decoded from the next key frame on.

    Args:
        codec_context: the PyAV codec context, whose `skip_frame` is set.

    Attributes:
        level: 0: all frames are decoded; 1: reference frames; 2: key frames.
    """

    _LEVELS = ("DEFAULT", "NONREF", "NONKEY")
    _WINDOW_S = 1.0
    _BUSY, _IDLE = 0.05, 0.25

    def __init__(self, codec_context: Any):
        self._codec_context = codec_context
        self.level = 0
        self._caught_up = False
        self._began_s: float | None = None
        self._waited_s = 0.0
        self._first: float | None = None  # first and last timestamp of the window's packets, in seconds
        self._last: float | None = None

    def note(self, packet: Any, asked_s: float, arrived_s: float) -> None:
        """Record a packet before it is decoded, with the times at which it was requested and arrived."""
        if self._began_s is None:
            self._began_s = asked_s
        self._waited_s += arrived_s - asked_s
        ticks = packet.dts if packet.dts is not None else packet.pts
        if ticks is not None:
            self._last = float(ticks * packet.time_base)
            self._first = self._last if self._first is None else self._first
        if arrived_s - self._began_s >= self._WINDOW_S:
            self._judge(arrived_s - self._began_s)
            self._began_s, self._waited_s, self._first = arrived_s, 0.0, self._last
        if self._caught_up and packet.is_keyframe:
            self._set_level(0)

    def note_pause(self, pause_s: float) -> None:
        """Exclude a pause of the reader, in which nothing was decoded, from the measurement."""
        if self._began_s is not None:
            self._began_s += pause_s

    def _judge(self, wall_s: float) -> None:
        idle = self._waited_s / wall_s
        media_s = wall_s if self._first is None or self._last is None else self._last - self._first
        if idle < self._BUSY and 0 <= media_s < wall_s:
            self._set_level(min(self.level + 1, len(self._LEVELS) - 1))
        elif idle > self._IDLE and self.level:
            self._caught_up = True

    def _set_level(self, level: int) -> None:
        self._caught_up = False
        if level != self.level:
            self.level = level
            self._codec_context.skip_frame = self._LEVELS[level]
