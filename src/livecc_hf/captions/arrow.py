"""Timed words and lines as Arrow columns: each row is a list of structs with start, end and text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WORD = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("word", pa.string())])
WORDS = pa.list_(WORD)
LINE = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())])
LINES = pa.list_(LINE)


@dataclass(frozen=True)
class FlatTimes:
    """The timed words (or lines) of all rows of a column, concatenated.

    Attributes:
        row_of: int64 (words,), the row of each word; not decreasing.
        start_s, end_s: float64 (words,), in seconds; NaN for null.
        text: string array (words,).
        faults: maps each row with an invalid word to the index of its first one. A word is invalid if a time is not
            finite or it ends before it starts; with `needs_text` also if its text is null.
        is_sound: bool (words,), whether each word is valid.
    """

    row_of: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    text: pa.StringArray
    faults: dict[int, int]
    is_sound: np.ndarray

    def without(self, rows: Collection[int]) -> FlatTimes:
        """Return the words that are not in `rows`."""
        return self.only(~np.isin(self.row_of, list(rows))) if rows else self

    def only(self, mask: np.ndarray) -> FlatTimes:
        """Return the words selected by `mask`, bool (words,)."""
        if mask.all():
            return self
        row_of, start_s, end_s = (values[mask] for values in (self.row_of, self.start_s, self.end_s))
        return FlatTimes(row_of, start_s, end_s, self.text.filter(pa.array(mask)), {}, self.is_sound[mask])


def flat_times(column: pa.Array | pa.ChunkedArray, needs_text: bool = False) -> FlatTimes:
    """Flatten a column of timed words or lines, and find its invalid entries.

    Args:
        column: of type `WORDS` or `LINES`; field names may differ.
        needs_text: treat a null text as invalid.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    row_of = np.repeat(np.arange(len(counts)), counts)
    starts, ends, text = array.flatten().flatten()
    start_s, end_s = (pc.fill_null(times.cast(pa.float64()), np.nan).to_numpy() for times in (starts, ends))
    is_sound = np.isfinite(start_s) & np.isfinite(end_s) & (end_s >= start_s)
    if needs_text and text.null_count:
        is_sound &= text.is_valid().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~is_sound)
    faults = {int(row_of[at]): int(at) for at in wrong[::-1]}  # reversed, so that the first fault of a row wins
    return FlatTimes(row_of, start_s, end_s, text.cast(pa.string()), faults, is_sound)


def timed_array(
    rows: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str]] | None], kind: pa.StructType
) -> pa.ListArray:
    """Return a column of lists of timed words or lines.

    Args:
        rows: starts in seconds, ends in seconds, and texts of each row; `None` for a null row.
        kind: `WORD` or `LINE`.
    """
    filled = [row for row in rows if row is not None]
    counts = np.array([0 if row is None else len(row[2]) for row in rows], np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    starts, ends = (np.concatenate([np.empty(0), *(row[i] for row in filled)]) for i in range(2))
    texts = pa.array(chain.from_iterable(row[2] for row in filled), pa.string(), size=int(counts.sum()))
    values = pa.StructArray.from_arrays([pa.array(starts), pa.array(ends), texts], fields=list(kind))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array([row is None for row in rows], pa.bool_()))
