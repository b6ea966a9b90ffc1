"""Reads rows of Parquet files with a few hundred rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from ...utils.text import one_line
from ..schemas import CLIP_SCHEMA, SUBTITLES, VIDEO_SCHEMA

_PARQUET_ROWS = 256  # read at a time
_DATASET_NAMES = {"video_start": "start_s", "video_end": "end_s"}  # a dataset folder's columns, and ours


@contextmanager
def _named(file: str, fault: str) -> Iterator[None]:
    """Raise errors of PyArrow about a file's content as a ValueError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file system
            raise
        raise ValueError(f"{file} {fault}: {one_line(error)}") from error


def read_header(file: str) -> tuple[int, bool]:
    """Return the number of rows of a Parquet file, and whether they are clips, which have a start and an end.

    Raises:
        ValueError: if it is not a Parquet file, or has no usable column `video`.
    """
    with _named(file, "is not a Parquet file"):
        header = pq.ParquetFile(file)
    schema = header.schema_arrow
    names = {_DATASET_NAMES.get(name, name) for name in schema.names}
    if "video" not in names:
        raise ValueError(f"{file} has no column 'video'; it has: {', '.join(sorted(names))}")
    kind = schema.field("video").type
    if pa.types.is_struct(kind) and kind.get_field_index("path") < 0:
        raise ValueError(f"{file}: column 'video' is {kind}: expected paths as text, or a struct with 'path'")
    return header.metadata.num_rows, {"start_s", "end_s"} <= names


class ParquetReader:
    """Reads rows of a Parquet file by number; fast if they are read in order.

    Args:
        file: path of the file.
    """

    def __init__(self, file: str):
        self.file = file
        self._next_row = 0
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._rest: pa.Table | None = None

    def read(self, start: int, count: int) -> pa.Table:
        """Return `count` rows from row `start` on, with our column names; the rows must exist.

        Raises:
            ValueError: if the file is damaged.
        """
        with _named(self.file, "is damaged"):
            return self._read(start, count)

    def _read(self, start: int, count: int) -> pa.Table:
        batches = self._batches
        if batches is None or start < self._next_row:
            batches = self._batches = self._open(start)
        parts, wanted_end = [], start + count
        while self._next_row < wanted_end:
            if self._rest is None or not len(self._rest):
                self._rest = pa.Table.from_batches([next(batches)])
            skip = max(start - self._next_row, 0)
            take = min(wanted_end - self._next_row, len(self._rest))
            if take > skip:
                parts.append(self._rest.slice(skip, take - skip))
            self._rest = self._rest.slice(take)
            self._next_row += take
        table = pa.concat_tables(parts)
        return table.rename_columns([_DATASET_NAMES.get(name, name) for name in table.column_names])

    def _open(self, start: int) -> Iterator[pa.RecordBatch]:
        """Return the batches from the row group on that holds the row."""
        file = pq.ParquetFile(self.file)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        group, begin = 0, 0
        while group < len(sizes) - 1 and begin + sizes[group] <= start:
            begin += sizes[group]
            group += 1
        known = {*VIDEO_SCHEMA.names, *CLIP_SCHEMA.names, *_DATASET_NAMES, SUBTITLES}
        columns = [name for name in file.schema_arrow.names if name in known]
        if pa.types.is_struct(file.schema_arrow.field("video").type):
            columns[columns.index("video")] = "video.path"  # without the bytes of the videos
        self._next_row, self._rest = begin, None
        return file.iter_batches(_PARQUET_ROWS, row_groups=list(range(group, len(sizes))), columns=columns)
