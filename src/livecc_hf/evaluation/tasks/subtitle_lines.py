"""Reads the lines of SubRip files as showlab/livecc does: without tags, line breaks and blank lines."""

from __future__ import annotations

import re
from pathlib import Path

from ..predictions.rows import SpokenSpan

_TIMES = re.compile(r"(\d+):(\d+):(\d+)[,.](\d+)\s*-->\s*(\d+):(\d+):(\d+)[,.](\d+)")
_TAGS = re.compile(r"<[^>]*>|\{\\[^}]*\}")


def read_subtitle_lines(path: Path) -> tuple[SpokenSpan, ...]:
    """Return the subtitle lines of a file, in file order, with times in seconds.

    Raises:
        OSError: if the file cannot be read.
    """
    lines = []
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")):
        match = _TIMES.search(block)
        if match is None:
            continue
        text = " ".join(_TAGS.sub("", block[match.end() :]).split())
        if text:
            numbers = [float(number) for number in match.groups()]
            lines.append(SpokenSpan(_seconds(numbers[:4], match[4]), _seconds(numbers[4:], match[8]), text))
    return tuple(lines)


def _seconds(parts: list[float], fraction: str) -> float:
    hours, minutes, seconds, _ = parts
    return hours * 3600 + minutes * 60 + seconds + float(f"0.{fraction}")
