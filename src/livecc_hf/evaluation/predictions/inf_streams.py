"""StreamingVLM's Inf-Streams protocol: a long commentary becomes windows of 100 seconds, each judged by itself.

The rules are those of mit-han-lab/streaming-vlm, `streaming_vlm/eval/model_compete`: a window has what ends in it, by
whole seconds, and counts if the commentary was made for the whole of it, silent or not. Its own windows are
`score_all_clips.jsonl`; where there are none, they are cut every 100 seconds and need 200 words of the reference.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .file import RowSet, open_text, read_lines
from .rows import CommentaryRow, SpokenSpan

SUITE = "inf-streams"
WINDOW_S, MIN_REFERENCE_WORDS = 100, 200


@dataclass(frozen=True)
class Reference:
    """What people said in a video, or in one window of it.

    Attributes:
        video: its file's name.
        spans: in the order of time; not empty.
    """

    video: str
    spans: list[SpokenSpan]

    @property
    def bounds_s(self) -> tuple[int, int]:
        """Where it begins and ends, in whole seconds."""
        return int(self.spans[0].start_s), int(self.spans[-1].end_s)

    @property
    def is_window(self) -> bool:
        """Whether it is a window itself: one of a whole game is longer than two windows."""
        begin_s, end_s = self.bounds_s
        return end_s - begin_s <= 2 * WINDOW_S


def in_window(spans: Sequence[SpokenSpan], begin_s: int, end_s: int) -> list[SpokenSpan]:
    """Return what ends within (begin_s, end_s], its end taken in whole seconds."""
    return [span for span in spans if begin_s < int(span.end_s) <= end_s]


def reference_text(spans: Sequence[SpokenSpan]) -> str:
    """Return what people said in a window as the judge is shown it: a line each."""
    return "\n".join(span.text for span in spans)


def windows_of(
    rows: RowSet[CommentaryRow], references: Sequence[Reference] | None = None, min_words: int = MIN_REFERENCE_WORDS
) -> RowSet[CommentaryRow]:
    """Return the windows of commentaries as rows of their own.

    Args:
        rows: commentaries with turns.
        references: what people said; default: the rows' own. Those that are windows are taken as they are, for all
            commentaries on their video together; of others, windows are cut.
        min_words: fewest words of the reference in a window that is cut.

    Raises:
        ValueError: if no commentary has turns, or none has a reference.
    """
    _check_turns(rows)
    given = [item for item in references or () if item.is_window]
    found = [
        row
        for item in given
        if (row := _window(_on(rows.rows, item.video), item.video, item.video, *item.bounds_s, item.spans))
    ]
    has_reference = any(_on(rows.rows, item.video) for item in given)
    cut = {_joined_by(item.video): item.spans for item in references or () if not item.is_window}
    for row in rows.rows:
        reference = row.reference if references is None else cut.get(_joined_by(row.video), [])
        has_reference = has_reference or bool(reference)
        for begin_s, end_s in _grid(row):
            people = in_window(reference, begin_s, end_s)
            if people and len(reference_text(people).split()) >= min_words:
                window = _window([row], row.key, row.video, begin_s, end_s, people)
                found += [window] if window else []
    if not has_reference:
        raise ValueError(f"{rows.source}: no commentary has a reference with times: give one (--annotations)")
    notes = [*rows.notes, f"{rows.source}: {len(found):,} windows of {WINDOW_S} s"]
    return _row_set(rows, found, notes)


def windows_named(rows: RowSet[CommentaryRow], keys: Iterable[str]) -> RowSet[CommentaryRow]:
    """Return the windows that verdicts are on, by their keys; those that `rows` does not have are left out.

    Raises:
        ValueError: if no commentary has turns.
    """
    _check_turns(rows)
    found = []
    for key in dict.fromkeys(keys):
        name, _, bounds = key.rpartition(" ")
        begin, _, end = bounds.partition("-")
        if name and begin.isdecimal() and end.isdecimal():
            chosen = [row for row in rows.rows if row.key == name] or _on(rows.rows, name)
            window = _window(chosen, name, chosen[0].video if chosen else name, int(begin), int(end), [])
            found += [window] if window else []
    return _row_set(rows, found, rows.notes)


def read_references(path: str | os.PathLike) -> list[Reference]:
    """Read what people said: lines with `video` and `content`, a list of [start_s, end_s, text].

    Raises:
        OSError: if it cannot be read.
        ValueError: if a line has another form.
    """
    path = Path(path).expanduser()
    lines = read_lines(path)
    found = []
    for number, value in zip(lines.numbers, lines.values, strict=True):
        try:
            spans = [SpokenSpan(float(start), float(end), str(text)) for start, end, text in value["content"]]
            item = Reference(video_name(value["video"]), spans)
            has_words = bool(spans) and item.bounds_s[0] <= item.bounds_s[1]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"line {number} of {path}: expected video and content, a list of [start_s, end_s, text]"
            ) from error
        if has_words:
            found.append(item)
    return found


def video_name(path: str) -> str:
    """Return a video's file name, without folders."""
    return PurePosixPath(path.replace("\\", "/")).name


def chunks_of(row: CommentaryRow) -> Iterator[dict[str, Any]]:
    """Yield a commentary in parts of 100 seconds, as StreamingVLM's generate_segments.py writes a model's answers."""
    last_s = math.ceil(row.end_s)
    for begin_s in range(int(row.begin_s), last_s, WINDOW_S):
        end_s = min(begin_s + WINDOW_S, last_s)
        yield {
            "video": video_name(row.video),
            "chunk_start": begin_s,
            "chunk_end": end_s,
            "items": [
                {"response": turn.text.strip(), "start_time": int(turn.start_s), "end_time": int(turn.end_s)}
                for turn in in_window(row.turns, begin_s, end_s)
            ],
        }


def write_chunks(path: str | os.PathLike, rows: RowSet[CommentaryRow]) -> int:
    """Write commentaries in parts of 100 seconds as JSON Lines, and return how many lines.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if no commentary has turns.
    """
    _check_turns(rows)
    chunks = [chunk for row in rows.rows for chunk in chunks_of(row)]
    with open_text(Path(path)) as file:
        for chunk in chunks:
            file.write(json.dumps(chunk, ensure_ascii=False) + "\n")
    return len(chunks)


def _window(
    rows: Sequence[CommentaryRow], name: str, video: str, begin_s: int, end_s: int, people: list[SpokenSpan]
) -> CommentaryRow | None:
    """Return a window of one video's commentaries; `None` where they do not reach over the whole of it."""
    if not rows or int(min(row.begin_s for row in rows)) > begin_s or end_s > max(row.end_s for row in rows):
        return None
    turns = [turn for row in sorted(rows, key=lambda row: row.begin_s) for turn in row.turns]
    said = in_window(turns, begin_s, end_s)
    text = " ".join(span.text.strip() for span in said if span.text.strip())
    return CommentaryRow(f"{name} {begin_s}-{end_s}", video, begin_s, end_s, text, said, people, rows[0].groups)


def _on(rows: Sequence[CommentaryRow], video: str) -> list[CommentaryRow]:
    return [row for row in rows if _joined_by(row.video) == _joined_by(video)]


def _joined_by(video: str) -> str:
    """Return a video's name without folders and ending: some files have them, others do not."""
    return re.sub(r"(?i)\.(mp4|mkv|webm|mov|avi|ts)$", "", video_name(video))


def _grid(row: CommentaryRow) -> Iterator[tuple[int, int]]:
    for begin_s in range(int(row.begin_s), math.ceil(row.end_s), WINDOW_S):
        yield begin_s, begin_s + WINDOW_S


def _check_turns(rows: RowSet[CommentaryRow]) -> None:
    if not any(row.turns for row in rows.rows):
        raise ValueError(f"{rows.source}: no commentary has turns with times, and windows are cut by those")


def _row_set(rows: RowSet[CommentaryRow], found: list[CommentaryRow], notes: list[str]) -> RowSet[CommentaryRow]:
    header = replace(rows.header, suite=SUITE, n_rows=len(found) or None, limit=None)
    return RowSet(header, found, rows.source, rows.layout_name, notes)
