"""Helpers for columns of the tables that pass from stage to stage."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..captions.segmentation import without_needless_spaces


def with_column(batch: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the table with the column replaced, or appended if the table has no column of that name."""
    index = batch.schema.get_field_index(name)
    return batch.append_column(name, values) if index < 0 else batch.set_column(index, name, values)


def scores_array(scores: np.ndarray) -> pa.Array:
    """Return float64 scores as a column, with null for NaN."""
    return pa.array(scores, pa.float64(), mask=np.isnan(scores))


def spoken_texts(batch: pa.Table) -> list[str]:
    """Return the spoken text of each row: its words, joined without spaces in scripts that use none; "" if no words."""
    words = batch["words"].combine_chunks()
    if isinstance(words, pa.ChunkedArray):
        words = pa.concat_arrays(words.chunks)
    counts = pc.fill_null(pc.list_value_length(words), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    spoken = pa.ListArray.from_arrays(pa.array(offsets), pc.struct_field(words.flatten(), "word"))
    return without_needless_spaces(pc.binary_join(spoken, " ")).to_pylist()


def texts(batch: pa.Table, name: str) -> list[str]:
    """Return a column's texts, stripped; "" for null or if the table has no such column."""
    if name not in batch.column_names:
        return [""] * len(batch)
    return [(value or "").strip() for value in batch[name].to_pylist()]


def hours_of(rows: pa.Table) -> pa.Array | pa.ChunkedArray:
    """Return the hours of video of each row; null where the length is unknown."""
    if "duration_s" in rows.column_names:
        return pc.divide(rows["duration_s"], 3600.0)
    return pc.divide(pc.subtract(rows["end_s"], rows["start_s"]), 3600.0)


def total_hours(rows: pa.Table) -> float:
    """Return the hours of video of all rows; unknown lengths count as 0."""
    return float(pc.sum(hours_of(rows)).as_py() or 0.0)
