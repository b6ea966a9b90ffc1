"""Writes commentary while it is generated, as plain text, JSON lines, SubRip or WebVTT.

Each segment is written at once and flushed, so that an interrupted run leaves a valid file.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, TextIO

from ..utils.text import one_line


class CaptionLike(Protocol):
    """A text with a start and end time, such as a `CommentarySegment`."""

    @property
    def start_s(self) -> float:
        """Start in seconds."""

    @property
    def end_s(self) -> float:
        """End in seconds."""

    @property
    def text(self) -> str:
        """The text, which may be empty."""


@dataclass(frozen=True)
class Caption:
    """A text, and the times in seconds between which it is shown."""

    start_s: float
    end_s: float
    text: str


class CaptionWriter(ABC):
    """Writes segments to a text file, which the caller has to close."""

    def __init__(self, file: TextIO):
        self._file = file
        self._put(self._header())

    def write(self, segment: CaptionLike) -> None:
        """Write one segment and flush.

        Raises:
            ValueError: if a time is not finite, or the segment ends before it starts.
        """
        if not (math.isfinite(segment.start_s) and math.isfinite(segment.end_s)):
            raise ValueError(f"a caption runs from {segment.start_s} s to {segment.end_s} s: expected finite times")
        if segment.end_s < segment.start_s:
            raise ValueError(f"a caption ends at {segment.end_s} s, before it starts at {segment.start_s} s")
        self._put(self._entry(segment))

    def _put(self, text: str) -> None:
        if text:
            self._file.write(text)
            self._file.flush()

    def _header(self) -> str:
        return ""

    @abstractmethod
    def _entry(self, segment: CaptionLike) -> str:
        """Return the text of one segment; empty to write nothing."""


class TextWriter(CaptionWriter):
    """Writes each segment as a line with its times first; silent segments are left out."""

    def _entry(self, segment: CaptionLike) -> str:
        text = one_line(segment.text)
        return f"{clock(segment.start_s)} - {clock(segment.end_s)}  {text}\n" if text else ""


class JsonLinesWriter(CaptionWriter):
    """Writes each segment as a JSON object; silent segments have an empty text."""

    def _entry(self, segment: CaptionLike) -> str:
        entry = {"start_s": round(segment.start_s, 3), "end_s": round(segment.end_s, 3), "text": segment.text}
        return json.dumps(entry, ensure_ascii=False) + "\n"


class _CueWriter(CaptionWriter):
    """Writes cues without overlaps: each starts after the last one, and lasts at least 1 ms."""

    def __init__(self, file: TextIO):
        self._n_cues = 0
        self._last_end_ms = 0
        super().__init__(file)

    def _entry(self, segment: CaptionLike) -> str:
        text = self._escape(one_line(segment.text))
        if not text:
            return ""
        start_ms = max(round(segment.start_s * 1000), self._last_end_ms)
        end_ms = max(round(segment.end_s * 1000), start_ms + 1)
        self._last_end_ms = end_ms
        self._n_cues += 1
        return self._cue(start_ms, end_ms, text)

    @abstractmethod
    def _escape(self, text: str) -> str:
        """Return the text with the format's special characters replaced."""

    @abstractmethod
    def _cue(self, start_ms: int, end_ms: int, text: str) -> str:
        """Return the cue, including the blank line after it."""


class SubRipWriter(_CueWriter):
    """Writes SubRip (.srt). The format has no escapes, so `-->` in a text becomes an arrow character."""

    def _escape(self, text: str) -> str:
        return text.replace("-->", "\N{RIGHTWARDS ARROW}")

    def _cue(self, start_ms: int, end_ms: int, text: str) -> str:
        return f"{self._n_cues}\n{_timestamp(start_ms, ',')} --> {_timestamp(end_ms, ',')}\n{text}\n\n"


class WebVttWriter(_CueWriter):
    """Writes WebVTT (.vtt)."""

    def _header(self) -> str:
        return "WEBVTT\n\n"

    def _escape(self, text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    def _cue(self, start_ms: int, end_ms: int, text: str) -> str:
        return f"{_timestamp(start_ms, '.')} --> {_timestamp(end_ms, '.')}\n{text}\n\n"


_WRITERS: dict[str, type[CaptionWriter]] = {
    "text": TextWriter,
    "jsonl": JsonLinesWriter,
    "srt": SubRipWriter,
    "vtt": WebVttWriter,
}
FORMATS = tuple(_WRITERS)


def open_writer(format: str, file: TextIO) -> CaptionWriter:
    """Return a writer for a format; the format's header, if any, is written immediately.

    Args:
        format: one of `FORMATS`.
        file: a text file open for writing, in UTF-8 for the subtitle formats.

    Raises:
        ValueError: if the format is unknown.
    """
    if format not in _WRITERS:
        raise ValueError(f"format {format!r} is unknown: expected {', '.join(FORMATS)}")
    return _WRITERS[format](file)


def clock(time_s: float) -> str:
    """Format a time in seconds as `mm:ss.s`, or `h:mm:ss.s` from one hour."""
    tenths = round(abs(time_s) * 10)
    sign = "-" if time_s < 0 and tenths else ""
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{sign}{hours}:{minutes:02d}:{seconds}" if hours else f"{sign}{minutes:02d}:{seconds}"


def _timestamp(time_ms: int, decimal_mark: str) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{decimal_mark}{milliseconds:03d}"
