"""Writes commentary as it comes: plain text, JSON lines, SubRip and WebVTT.

Every writer puts a segment out in one piece and flushes it, so an interrupted run leaves a valid file.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, TextIO

from ..utils.text import one_line


class CaptionLike(Protocol):
    """What the writers take: times in seconds and the words between them, such as a `CommentarySegment`."""

    @property
    def start_s(self) -> float:
        """Start in seconds."""

    @property
    def end_s(self) -> float:
        """End in seconds."""

    @property
    def text(self) -> str:
        """The words."""


@dataclass(frozen=True)
class Caption:
    """Words and when they are shown, in seconds."""

    start_s: float
    end_s: float
    text: str


class CaptionWriter(ABC):
    """Writes segments to a text file, one after the other. The file stays the caller's to close."""

    def __init__(self, file: TextIO):
        self._file = file
        self._put(self._header())

    def write(self, segment: CaptionLike) -> None:
        """Write one segment and flush.

        Raises:
            ValueError: if its times are not finite, or end before they start.
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
    """One line a segment, its times in front; silent segments are left out."""

    def _entry(self, segment: CaptionLike) -> str:
        text = one_line(segment.text)
        return f"{clock(segment.start_s)} - {clock(segment.end_s)}  {text}\n" if text else ""


class JsonLinesWriter(CaptionWriter):
    """One JSON object a segment, silent ones included (their text is empty)."""

    def _entry(self, segment: CaptionLike) -> str:
        entry = {"start_s": round(segment.start_s, 3), "end_s": round(segment.end_s, 3), "text": segment.text}
        return json.dumps(entry, ensure_ascii=False) + "\n"


class _CueWriter(CaptionWriter):
    """Cues in order of time that never overlap: one that would starts where the last ended, and lasts 1 ms at least."""

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
        """Return the text with the characters replaced that mean something in the format."""

    @abstractmethod
    def _cue(self, start_ms: int, end_ms: int, text: str) -> str:
        """Return the cue, the empty line after it included."""


class SubRipWriter(_CueWriter):
    """SubRip (.srt). It has no escapes, so the arrow that parts a cue's times is written as a character."""

    def _escape(self, text: str) -> str:
        return text.replace("-->", "\N{RIGHTWARDS ARROW}")

    def _cue(self, start_ms: int, end_ms: int, text: str) -> str:
        return f"{self._n_cues}\n{_timestamp(start_ms, ',')} --> {_timestamp(end_ms, ',')}\n{text}\n\n"


class WebVttWriter(_CueWriter):
    """WebVTT (.vtt)."""

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
    """Make a writer for `text`, `jsonl`, `srt` or `vtt`; a header, if there is one, is written at once.

    Args:
        format: one of `FORMATS`.
        file: a text file open for writing; for the subtitle formats in UTF-8.

    Raises:
        ValueError: if the format is unknown.
    """
    if format not in _WRITERS:
        raise ValueError(f"format {format!r} is unknown: expected {', '.join(FORMATS)}")
    return _WRITERS[format](file)


def clock(time_s: float) -> str:
    """Return a time as `mm:ss.s`, with hours in front where there are any."""
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
