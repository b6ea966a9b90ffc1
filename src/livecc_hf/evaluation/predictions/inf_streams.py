"""StreamingVLM's Inf-Streams protocol: a long commentary becomes windows of 100 seconds, each judged by itself.

The rules are those of mit-han-lab/streaming-vlm: a window has what ends in it, by whole seconds; it counts if at least
200 words of the reference are in it, and if the commentary says something in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .file import RowSet, open_text, read_lines
from .rows import CommentaryRow, Span

SUITE = "inf-streams"
WINDOW_S, MIN_REFERENCE_WORDS = 100, 200


def in_window(spans: Sequence[Span], begin_s: int, end_s: int) -> list[Span]:
    """Return what ends within (begin_s, end_s], its end taken in whole seconds."""
    return [span for span in spans if begin_s < int(span.end_s) <= end_s]


def windows_of(
    rows: RowSet, references: dict[str, list[Span]] | None = None, min_words: int = MIN_REFERENCE_WORDS
) -> RowSet:
    """Return the windows of commentaries as rows of their own.

    Args:
        rows: commentaries with turns.
        references: what people said, by video; default: the rows' own.
        min_words: fewest words of the reference in a window.

    Raises:
        ValueError: if no commentary has turns, or none has a reference though words of it are wanted.
    """
    if not any(row.turns for row in rows.rows):
        raise ValueError(f"{rows.source}: no commentary has turns with times, and windows are cut by those")
    found, has_reference = [], min_words == 0
    for row in rows.rows:
        reference = row.reference if references is None else references.get(row.video, [])
        has_reference = has_reference or bool(reference)
        for begin_s in range(int(row.begin_s), int(row.end_s), WINDOW_S):
            end_s = begin_s + WINDOW_S
            said, people = in_window(row.turns, begin_s, end_s), in_window(reference, begin_s, end_s)
            text = _joined(said)
            if not text or len(_joined(people).split()) < min_words:
                continue
            key = f"{row.key} {begin_s}-{end_s}"
            found.append(CommentaryRow(key, row.video, begin_s, end_s, text, said, people, row.groups))
    if not has_reference:
        raise ValueError(f"{rows.source}: no commentary has a reference with times: give one (--annotations)")
    header = replace(rows.header, suite=SUITE, n_rows=len(found) or None, limit=None)
    notes = [*rows.notes, f"{rows.source}: {len(found):,} windows of {WINDOW_S} s"]
    return RowSet(header, found, rows.source, rows.layout_name, notes)


def read_references(path: str | os.PathLike) -> dict[str, list[Span]]:
    """Read what people said by video: lines with `video` and `content`, a list of [start_s, end_s, text].

    Raises:
        OSError: if it cannot be read.
        ValueError: if a line has another form.
    """
    path = Path(path).expanduser()
    lines = read_lines(path)
    references: dict[str, list[Span]] = {}
    for number, value in zip(lines.numbers, lines.values, strict=True):
        try:
            spans = [Span(*span) for span in value["content"]]
            references.setdefault(value["video"], []).extend(spans)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of {path}: expected video and content, a list of [start_s, end_s, text]"
            ) from error
    return references


def window_record(row: CommentaryRow) -> dict[str, Any]:
    """Return a window with the names of StreamingVLM's judge, and its text."""
    return {
        "video": row.video,
        "seg_start": int(row.begin_s),
        "seg_end": int(row.end_s),
        "ref_text": _joined(row.reference),
        "text": row.pred,
    }


def write_windows(path: str | os.PathLike, rows: RowSet, references: dict[str, list[Span]] | None = None) -> int:
    """Write the windows of commentaries as JSON Lines, and return how many; arguments as in `windows_of`."""
    windows = windows_of(rows, references).rows
    with open_text(Path(path)) as file:
        for row in windows:
            file.write(json.dumps(window_record(row), ensure_ascii=False) + "\n")
    return len(windows)


def _joined(spans: Sequence[Span]) -> str:
    return " ".join(span.text.strip() for span in spans if span.text.strip())
