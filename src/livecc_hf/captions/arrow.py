"""Timed words and lines as Arrow columns: a list of structs of start, end and text a row."""

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
    """The timed words, or lines, of all rows of a column one after the other.

    Attributes:
        row_of: int64 (words,), the row of each; not decreasing.
        start_s, end_s: float64 (words,), seconds; NaN for null.
        text: (words,).
        faults: for each row with one that has no text, no finite times, or an end before its start: the index of the
            first such.
        is_sound: bool (words,): the others.
    """

    row_of: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    text: pa.StringArray
    faults: dict[int, int]
    is_sound: np.ndarray

    def without(self, rows: Collection[int]) -> FlatTimes:
        """Return the words of the other rows."""
        return self.only(~np.isin(self.row_of, list(rows))) if rows else self

    def only(self, mask: np.ndarray) -> FlatTimes:
        """Return which words are marked; bool, shape (words,)."""
        if mask.all():
            return self
        row_of, start_s, end_s = (values[mask] for values in (self.row_of, self.start_s, self.end_s))
        return FlatTimes(row_of, start_s, end_s, self.text.filter(pa.array(mask)), {}, self.is_sound[mask])


def flat_times(column: pa.Array | pa.ChunkedArray, needs_text: bool = False) -> FlatTimes:
    """Return the words or lines of a column of lists of structs of start, end and text.

    Args:
        column: of type `WORDS` or `LINES`, whatever their fields are called.
        needs_text: a null text is a fault.
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
    faults = {int(row_of[at]): int(at) for at in wrong[::-1]}  # the first one stays
    return FlatTimes(row_of, start_s, end_s, text.cast(pa.string()), faults, is_sound)


def timed_array(
    rows: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str]] | None], kind: pa.StructType
) -> pa.ListArray:
    """Return starts, ends and texts of each row as a column of lists of `WORD` or `LINE`; null for `None`."""
    filled = [row for row in rows if row is not None]
    counts = np.array([0 if row is None else len(row[2]) for row in rows], np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    starts, ends = (np.concatenate([np.empty(0), *(row[i] for row in filled)]) for i in range(2))
    texts = pa.array(chain.from_iterable(row[2] for row in filled), pa.string(), size=int(counts.sum()))
    values = pa.StructArray.from_arrays([pa.array(starts), pa.array(ends), texts], fields=list(kind))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array([row is None for row in rows], pa.bool_()))
