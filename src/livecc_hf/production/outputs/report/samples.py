"""Draws the sample rows that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....utils.hashing import text_hashes

_MOST_WORDS = 400  # shown of a sample
# Columns that the report shows in their own way, or that are clear from the place of a sample.
_SHOWN_APART = ("id", "video", "start_s", "end_s", "words", "faces", "text", "stage", "reason", "hours", "duration_s")


@dataclass(frozen=True)
class ReportSample:
    """A clip or video in the report.

    Attributes:
        id, video: as in the row.
        start_s, end_s: of a clip; for a video, 0 and its length, or `None` if unknown.
        is_clip: whether the sample is a clip, not a video.
        words: the first words, each with `start_s`, `end_s` and `word`; empty if their times are unknown.
        is_cut: whether there may be more words.
        text: the first words as text.
        faces: each with `time_s`, `score`, `left`, `top`, `right`, `bottom`; may be empty.
        others: the other columns of the row.
    """

    id: str
    video: str
    start_s: float
    end_s: float | None
    is_clip: bool
    words: Sequence[dict[str, Any]] = ()
    is_cut: bool = False
    text: str = ""
    faces: Sequence[dict[str, float]] = ()
    others: dict[str, Any] = field(default_factory=dict)


class Samples:
    """Random rows, drawn by a hash of their ids, so that the draw does not depend on their order.

    Args:
        size: number of rows to draw.
        most_words: maximum number of words kept of a row; a row with that many counts as cut.
    """

    def __init__(self, size: int, most_words: int = _MOST_WORDS):
        self.size, self._most_words = size, most_words
        self._chosen: list[tuple[int, ReportSample]] = []

    def add(self, table: pa.Table) -> None:
        """Add the rows of a table to those from which the samples are drawn."""
        hashes = text_hashes(table["id"])
        candidates = np.arange(len(hashes))
        if len(self._chosen) == self.size:
            candidates = np.flatnonzero(hashes < self._chosen[-1][0])
        if len(candidates) > self.size:
            candidates = candidates[np.argpartition(hashes[candidates], self.size - 1)[: self.size]]
        for index in np.sort(candidates):
            self._chosen.append((int(hashes[index]), read_sample(table, int(index), self._most_words)))
        self._chosen = sorted(self._chosen, key=lambda item: item[0])[: self.size]

    def rows(self) -> list[ReportSample]:
        """Return the rows drawn so far."""
        return [sample for _, sample in self._chosen]


def read_sample(table: pa.Table, index: int, most_words: int = _MOST_WORDS) -> ReportSample:
    """Return a row in `VIDEO_SCHEMA`, `CLIP_SCHEMA` or `DROPPED_SCHEMA` as a sample."""
    row = table.slice(index, 1)
    columns = {name: row[name][0].as_py() for name in row.column_names if name not in ("words", "previous")}
    words: list[dict[str, Any]] = []
    is_cut = False
    if "words" in row.column_names:
        words = pc.list_slice(row["words"], 0, most_words)[0].as_py() or []
        is_cut = len(words) == most_words
    start_s, end_s = columns.get("start_s"), columns.get("end_s")
    is_clip = start_s is not None and end_s is not None and end_s > start_s
    if start_s is None or not is_clip:
        hours = columns.get("hours")
        start_s, end_s = 0.0, columns.get("duration_s") or (3600 * hours if hours else None)
    return ReportSample(
        columns["id"] or "",
        columns["video"] or "",
        start_s,
        end_s,
        is_clip,
        words,
        is_cut,
        columns.get("text") or " ".join(word["word"] for word in words),
        columns.get("faces") or [],
        {name: value for name, value in columns.items() if name not in _SHOWN_APART and value not in (None, "")},
    )
