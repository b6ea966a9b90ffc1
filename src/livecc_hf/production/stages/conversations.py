"""Clips as training data: the published JSON Lines of conversations, and Parquet of flat columns.

Both are written beside their place and moved there when complete, so that a file that exists is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..records import CLIP_SCHEMA

_ESCAPED = r'[\x00-\x1f"\\]'
_OFFSETS_A_WRITE = 100_000
_ROW_GROUP_ROWS = 1000

DATASET_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.string()),
        ("video_start", pa.float64()),  # seconds on the video's clock
        ("video_end", pa.float64()),
        ("words", pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64()), ("word", pa.string())]))),
        ("query", pa.string()),
        ("title", pa.string()),
        ("previous", pa.string()),
        ("category", pa.string()),
        ("language_score", pa.float64()),
        ("text_loss", pa.float64()),
        ("p_talking_head", pa.float64()),
    ]
)


def dataset_rows(clips: pa.Table) -> pa.Table:
    """Return clips as rows of a training dataset: the columns that the source `dataset` of a recipe reads.

    Args:
        clips: in `CLIP_SCHEMA`.

    Returns:
        In `DATASET_SCHEMA`.

    Raises:
        ValueError: if the columns are others.
    """
    _check(clips)
    return clips.rename_columns({"start_s": "video_start", "end_s": "video_end"}).select(DATASET_SCHEMA.names).cast(
        DATASET_SCHEMA
    )


def conversation_lines(clips: pa.Table) -> list[bytes]:
    """Return clips as Live-CC-5M has them: a conversation each, as one line of JSON.

    The user's message has the video with `video_start` and `video_end`, and a text (the query) with `previous`,
    `title` and, where known, `category`; the assistant's is a `text_stream` of `[start, end, word]`.

    Args:
        clips: in `CLIP_SCHEMA`.

    Returns:
        UTF-8, each ending in a newline.

    Raises:
        ValueError: if the columns are others.
    """
    _check(clips)
    names = ("video", "start_s", "end_s", "query", "previous", "title", "category")
    columns = (clips[name].to_pylist() for name in names)
    streams = _streams(clips["words"].combine_chunks()).to_pylist()
    return [
        _line(row, stream) for row, stream in zip(zip(*columns, strict=True), streams, strict=True)
    ]


def write_jsonl(path: str | os.PathLike, clips: Iterable[pa.Table]) -> int:
    """Write a file of conversations with their byte offsets as the last line, as Live-CC-5M is published.

    Args:
        path: the file.
        clips: tables in `CLIP_SCHEMA`; one is in memory at a time.

    Returns:
        How many clips were written.

    Raises:
        ValueError: if there is no clip; no file is written.
    """
    with JsonlWriter(path) as writer:
        for table in clips:
            writer.write(table)
    return writer.n_clips


class JsonlWriter:
    """Writes conversations as they come; the file appears when the `with` block ends without an error.

    Attributes:
        n_clips: how many were written.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._lengths: list[np.ndarray] = []
        self.n_clips = 0

    def __enter__(self) -> JsonlWriter:
        self._place = replaced_when_done(self.path)
        self._partial = self._place.__enter__()
        self._file = self._partial.open("wb")
        return self

    def write(self, clips: pa.Table) -> None:
        """Appends clips in `CLIP_SCHEMA`."""
        lines = conversation_lines(clips)
        self._file.writelines(lines)
        self._lengths.append(np.fromiter(map(len, lines), np.int64, len(lines)))
        self.n_clips += len(lines)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._write_offsets()
                self._file.flush()
                os.fsync(self._file.fileno())
        except BaseException as failure:
            self._file.close()
            self._place.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._file.close()
        self._place.__exit__(kind, error, trace)

    def _write_offsets(self) -> None:
        if not self.n_clips:
            raise ValueError(f"there is no clip to write to {self.path}: every clip was dropped, or none came in")
        ends = np.cumsum(np.concatenate(self._lengths))
        offsets = np.concatenate([[0], ends[:-1]])
        self._file.write(b"[")
        for at in range(0, len(offsets), _OFFSETS_A_WRITE):
            self._file.write(b", " if at else b"")
            self._file.write(json.dumps(offsets[at : at + _OFFSETS_A_WRITE].tolist())[1:-1].encode())
        self._file.write(b"]\n")


def write_parquet(path: str | os.PathLike, clips: pa.Table) -> None:
    """Write clips as one Parquet file of `dataset_rows`.

    Row groups are small and chunked by content, so that rows are reached quickly and a changed file is uploaded only
    where it changed.

    Raises:
        ValueError: if the columns are not those of `CLIP_SCHEMA`.
    """
    rows = dataset_rows(clips)
    with replaced_when_done(Path(path)) as partial:
        pq.write_table(
            rows,
            partial,
            compression="zstd",
            row_group_size=_ROW_GROUP_ROWS,
            write_page_index=True,
            use_content_defined_chunking=True,
        )
        _sync(partial)


@contextmanager
def replaced_when_done(path: Path) -> Iterator[Path]:
    """Give a name beside a file to write to; it becomes the file if all goes well, and is removed if not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _check(clips: pa.Table) -> None:
    if not clips.schema.equals(CLIP_SCHEMA):
        raise ValueError(f"clips have the columns {clips.schema.names}: expected those of CLIP_SCHEMA, {CLIP_SCHEMA.names}")


def _line(row: tuple, stream: str) -> bytes:
    video, start_s, end_s, query, previous, title, category = row
    place = {"type": "video", "video": video, "video_start": start_s, "video_end": end_s}
    text = {"type": "text", "text": query or "", "previous": previous or "", "title": title or ""}
    if category is not None:
        text["category"] = category
    user = json.dumps([{"role": "user", "content": [place, text]}], ensure_ascii=False)
    return (
        f'{user[:-1]}, {{"role": "assistant", "content": [{{"type": "text_stream", "text_stream": [{stream}]}}]}}]\n'
    ).encode()


def _streams(words: pa.ListArray) -> pa.Array:
    """Return the words of each clip as JSON without the outer brackets, made column by column."""
    starts, ends, texts = words.flatten().flatten()
    dumped = _map_rare(pc.match_substring_regex(texts, _ESCAPED), texts, lambda text: json.dumps(text, ensure_ascii=False)[1:-1])
    parts = [pc.cast(starts, pa.string()), pc.cast(ends, pa.string())]
    triples = pc.binary_join_element_wise("[", parts[0], ", ", parts[1], ', "', dumped, '"]', "")
    offsets = np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(words), 0).to_numpy())])
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), triples), ", ")


def _map_rare(is_rare: pa.BooleanArray, texts: pa.StringArray, function: Callable[[str], str]) -> pa.StringArray:
    """Return the texts with a function applied to the few that need it."""
    rare = texts.filter(is_rare)
    return pc.replace_with_mask(texts, is_rare, pa.array([function(text) for text in rare.to_pylist()], pa.string()))
