"""StreamingVLM's Inf-Streams protocol: a long commentary is cut into windows of 100 seconds that are judged separately.

The rules are those of mit-han-lab/streaming-vlm, `streaming_vlm/eval/model_compete`: a window contains the spans that
end in it, by whole seconds, and counts if the commentary covers the whole window, even if it is silent there.
StreamingVLM's own windows are in its `score_all_clips.jsonl`; otherwise windows are cut every 100 seconds, and those
whose reference has at least 200 words are used.
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
        video: file name of the video.
        spans: the spoken spans, in order of time; not empty.
    """

    video: str
    spans: list[SpokenSpan]

    @property
    def bounds_s(self) -> tuple[int, int]:
        """Start and end in whole seconds."""
        return int(self.spans[0].start_s), int(self.spans[-1].end_s)

    @property
    def is_window(self) -> bool:
        """Whether this is the reference of one window; a reference of a whole game is longer than two windows."""
        begin_s, end_s = self.bounds_s
        return end_s - begin_s <= 2 * WINDOW_S


def in_window(spans: Sequence[SpokenSpan], begin_s: int, end_s: int) -> list[SpokenSpan]:
    """Return the spans whose end, in whole seconds, is in (begin_s, end_s]."""
    return [span for span in spans if begin_s < int(span.end_s) <= end_s]


def reference_text(spans: Sequence[SpokenSpan]) -> str:
    """Return the spans' texts for the judge, one per line."""
    return "\n".join(span.text for span in spans)


def cut_into_windows(
    rows: RowSet[CommentaryRow], references: Sequence[Reference] | None = None, min_words: int = MIN_REFERENCE_WORDS
) -> RowSet[CommentaryRow]:
    """Return the windows of commentaries as rows.

    Args:
        rows: commentaries with turns.
        references: what people said; default: the references of the rows. A reference that is a window is used as it
            is, with the turns of all commentaries on its video; a longer one is cut into windows.
        min_words: least number of reference words of a window that is cut.

    Raises:
        ValueError: if no commentary has turns, or none has a reference.
    """
    _check_turns(rows)
    given = [item for item in references or () if item.is_window]
    found = [
        row
        for item in given
        if (row := _window(_rows_on(rows.rows, item.video), item.video, item.video, *item.bounds_s, item.spans))
    ]
    has_reference = any(_rows_on(rows.rows, item.video) for item in given)
    to_cut = {_video_stem(item.video): item.spans for item in references or () if not item.is_window}
    for row in rows.rows:
        reference = row.reference if references is None else to_cut.get(_video_stem(row.video), [])
        has_reference = has_reference or bool(reference)
        for begin_s, end_s in _grid(row):
            said = in_window(reference, begin_s, end_s)
            if said and len(reference_text(said).split()) >= min_words:
                window = _window([row], row.key, row.video, begin_s, end_s, said)
                found += [window] if window else []
    if not has_reference:
        raise ValueError(f"{rows.source}: no commentary has a reference with times: give one (--annotations)")
    notes = [*rows.notes, f"{rows.source}: {len(found):,} windows of {WINDOW_S} s"]
    return _row_set(rows, found, notes)


def windows_named(rows: RowSet[CommentaryRow], keys: Iterable[str]) -> RowSet[CommentaryRow]:
    """Return the windows with the given keys, by video and time, with the references of the commentaries.

    Args:
        rows: commentaries with turns.
        keys: keys of windows, as in verdicts; windows that the commentaries do not cover are left out.

    Raises:
        ValueError: if no commentary has turns.
    """
    _check_turns(rows)
    found = []
    for key in dict.fromkeys(keys):
        name, _, bounds = key.rpartition(" ")
        begin, _, end = bounds.partition("-")
        if name and begin.isdecimal() and end.isdecimal():
            chosen = [row for row in rows.rows if row.key == name] or _rows_on(rows.rows, name)
            reference = [span for row in sorted(chosen, key=lambda row: row.begin_s) for span in row.reference]
            said = in_window(reference, int(begin), int(end))
            window = _window(chosen, name, chosen[0].video if chosen else name, int(begin), int(end), said)
            found += [window] if window else []
    found.sort(key=lambda row: (row.video, row.begin_s))
    return _row_set(rows, found, rows.notes)


def read_references(path: str | os.PathLike) -> list[Reference]:
    """Read what people said from lines with `video` and `content`, a list of [start_s, end_s, text].

    Lines without words are left out.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a line has another form.
    """
    path = Path(path).expanduser()
    lines = read_lines(path)
    found = []
    for number, value in zip(lines.numbers, lines.values, strict=True):
        try:
            spans = [SpokenSpan(float(start), float(end), str(text)) for start, end, text in value["content"]]
            if not all(math.isfinite(time_s) for span in spans for time_s in span[:2]):
                raise ValueError("a time is not finite")
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
    """Return the file name of a path, which may have Windows separators."""
    return PurePosixPath(path.replace("\\", "/")).name


def chunks_of(row: CommentaryRow) -> Iterator[dict[str, Any]]:
    """Yield a commentary in chunks of 100 seconds, in the format of StreamingVLM's generate_segments.py."""
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
    """Write commentaries as JSON Lines with a chunk of 100 seconds per line, and return the number of lines.

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
    rows: Sequence[CommentaryRow], name: str, video: str, begin_s: int, end_s: int, reference: list[SpokenSpan]
) -> CommentaryRow | None:
    """Return a window of one video's commentaries; `None` if they do not cover the whole window."""
    if not rows or int(min(row.begin_s for row in rows)) > begin_s or end_s > max(row.end_s for row in rows):
        return None
    turns = [turn for row in sorted(rows, key=lambda row: row.begin_s) for turn in row.turns]
    said = in_window(turns, begin_s, end_s)
    text = " ".join(span.text.strip() for span in said if span.text.strip())
    return CommentaryRow(f"{name} {begin_s}-{end_s}", video, begin_s, end_s, text, said, reference, rows[0].groups)


def _rows_on(rows: Sequence[CommentaryRow], video: str) -> list[CommentaryRow]:
    return [row for row in rows if _video_stem(row.video) == _video_stem(video)]


def _video_stem(video: str) -> str:
    """Return a video's name without folders and suffix, which only some files have."""
    return re.sub(r"(?i)\.(mp4|mkv|webm|mov|avi|ts)$", "", video_name(video))


def _grid(row: CommentaryRow) -> Iterator[tuple[int, int]]:
    for begin_s in range(int(row.begin_s), math.ceil(row.end_s), WINDOW_S):
        yield begin_s, begin_s + WINDOW_S


def _check_turns(rows: RowSet[CommentaryRow]) -> None:
    if not any(row.turns for row in rows.rows):
        raise ValueError(f"{rows.source}: no commentary has turns with times, which windows need")


def _row_set(rows: RowSet[CommentaryRow], found: list[CommentaryRow], notes: list[str]) -> RowSet[CommentaryRow]:
    header = replace(rows.header, suite=SUITE, n_rows=len(found) or None, limit=None)
    return RowSet(header, found, rows.source, rows.layout_name, notes)
