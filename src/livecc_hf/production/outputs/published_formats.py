"""Writes clips as training data: conversations as JSON Lines, as Live-CC-5M has them, and Parquet with flat columns.

Both are written to a temporary file that is renamed when complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...modeling.grammar import FRAME_STEP_S
from ...utils.atomic import atomic_write
from ..schemas import CLIP_SCHEMA

_ESCAPED = r'[\x00-\x1f"\\]'
_OFFSETS_A_WRITE = 100_000
_ROW_GROUP_ROWS = 1000

_CLIP_COLUMNS = {"video_start": "start_s"}
_WORD = pa.struct([("start", pa.float64()), ("end", pa.float64()), ("word", pa.string())])
DATASET_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("video", pa.string()),
        ("video_start", pa.float64()),  # seconds from what a player shows as 0:00
        ("video_end", pa.float64()),
        ("words", pa.list_(_WORD)),
        ("query", pa.string()),
        ("title", pa.string()),
        ("previous", pa.string()),
        ("category", pa.string()),
        ("language_score", pa.float64()),
        ("text_loss", pa.float64()),
        ("p_talking_head", pa.float64()),
        ("speaker_ratio", pa.float64()),
    ]
)


def dataset_rows(clips: pa.Table) -> pa.Table:
    """Return clips as rows of a training dataset, as the source `dataset` of a training recipe reads them.

    Args:
        clips: in `CLIP_SCHEMA`.

    Returns:
        A table in `DATASET_SCHEMA`; `video_end` is at least one sampling step (0.5 s) after the last word's end.

    Raises:
        ValueError: if the columns are not those of `CLIP_SCHEMA`.
    """
    _check(clips)
    words = clips["words"].combine_chunks()
    names = [name for name in DATASET_SCHEMA.names if name != "video_end"]
    columns = {name: clips[_CLIP_COLUMNS.get(name, name)] for name in names} | {"video_end": _video_ends(clips)}
    values = pa.StructArray.from_arrays(words.flatten().flatten(), fields=list(_WORD))  # a cast would match by names
    return pa.table(columns | {"words": pa.ListArray.from_arrays(_offsets(words), values)}, schema=DATASET_SCHEMA)


def conversation_lines(clips: pa.Table) -> list[bytes]:
    """Return clips in the format of Live-CC-5M: a conversation per clip, as a line of JSON.

    The user's message has the video with `video_start` and `video_end`, and a text (the query) with `previous`,
    `title` and, if known, `category`; the assistant's message is a `text_stream` of `[start, end, word]`. `video_end`
    is at least one sampling step (0.5 s) after the last word's end; in Live-CC-5M it is the last word's end.

    Args:
        clips: in `CLIP_SCHEMA`.

    Returns:
        Lines in UTF-8, each ending in a newline.

    Raises:
        ValueError: if the columns are not those of `CLIP_SCHEMA`, or a word lacks text or finite times.
    """
    _check(clips)
    _check_words(clips)
    names = ("video", "start_s", "query", "previous", "title", "category")
    columns = [clips[name].to_pylist() for name in names]
    columns.insert(2, _video_ends(clips).tolist())
    streams = _streams(clips["words"].combine_chunks()).to_pylist()
    return [_line(row, stream) for row, stream in zip(zip(*columns, strict=True), streams, strict=True)]


class JsonlWriter:
    """Appends conversations to a file; see `open_jsonl`.

    Attributes:
        n_clips: number of clips written.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._lengths: list[np.ndarray] = []
        self.n_clips = 0

    def write(self, clips: pa.Table) -> None:
        """Append clips in `CLIP_SCHEMA`."""
        lines = conversation_lines(clips)
        self._file.writelines(lines)
        self._lengths.append(np.fromiter(map(len, lines), np.int64, len(lines)))
        self.n_clips += len(lines)

    def finish(self) -> None:
        """Append the line of offsets.

        Raises:
            ValueError: if no clip was written.
        """
        if not self.n_clips:
            raise ValueError("there is no clip to write as conversations: every clip was dropped, or there was none")
        ends = np.cumsum(np.concatenate(self._lengths))
        offsets = np.concatenate([[0], ends[:-1]])
        self._file.write(b"[")
        for at in range(0, len(offsets), _OFFSETS_A_WRITE):
            self._file.write(b", " if at else b"")
            self._file.write(json.dumps(offsets[at : at + _OFFSETS_A_WRITE].tolist())[1:-1].encode())
        self._file.write(b"]\n")


@contextmanager
def open_jsonl(path: str | os.PathLike) -> Iterator[JsonlWriter]:
    """Open a writer of conversations; the file appears, with its line of offsets, when the block ends without error.

    Raises:
        ValueError: if no clip was written.
    """
    with atomic_write(path) as partial, partial.open("wb") as file:
        writer = JsonlWriter(file)
        yield writer
        writer.finish()


def write_parquet(path: str | os.PathLike, clips: pa.Table) -> None:
    """Write clips as a Parquet file of `dataset_rows`.

    Row groups are small, so that single rows are read quickly. Pages are chunked by content, so that the upload of a
    changed file sends only the changed parts.

    Raises:
        ValueError: if the columns are not those of `CLIP_SCHEMA`.
    """
    rows = dataset_rows(clips)
    with atomic_write(path) as partial:
        pq.write_table(
            rows,
            partial,
            compression="zstd",
            row_group_size=_ROW_GROUP_ROWS,
            write_page_index=True,
            use_content_defined_chunking=True,
        )


def _video_ends(clips: pa.Table) -> np.ndarray:
    """Return the `video_end` of each clip, late enough that a frame is sampled after the last word.

    Training samples frames at multiples of 0.5 s from the clip's start, and drops words that end after the last frame.
    The ends of clips that were read from a dataset are late enough already and stay.
    """
    words = clips["words"].combine_chunks()
    offsets = _offsets(words).to_numpy()
    ends = words.flatten().field("end_s").to_numpy(zero_copy_only=False)
    video_ends = clips["end_s"].to_numpy().copy()
    spoken = np.flatnonzero(np.diff(offsets))
    video_ends[spoken] = np.maximum(video_ends[spoken], ends[offsets[spoken + 1] - 1] + FRAME_STEP_S)
    return video_ends


def _check(clips: pa.Table) -> None:
    if not clips.schema.equals(CLIP_SCHEMA):
        raise ValueError(
            f"clips have the columns {clips.schema.names}: expected those of CLIP_SCHEMA, {CLIP_SCHEMA.names}"
        )


def _check_words(clips: pa.Table) -> None:
    column = clips["words"].combine_chunks()
    starts, ends, texts = column.flatten().flatten()
    is_sound = pc.fill_null(pc.and_(pc.is_finite(starts), pc.is_finite(ends)), False)
    is_sound = pc.and_(is_sound, pc.is_valid(texts)).to_numpy(zero_copy_only=False)
    if not is_sound.all():
        clip = column.value_parent_indices()[int(np.argmin(is_sound))].as_py()
        raise ValueError(
            f"clip {clips['id'][clip].as_py()} has a word without text or finite times, which JSON cannot hold: "
            "expected words as the clip stages write them"
        )


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
    """Return the words of each clip as a JSON list without its outer brackets."""
    starts, ends, texts = words.flatten().flatten()
    dumped = _map_rare(
        pc.match_substring_regex(texts, _ESCAPED), texts, lambda text: json.dumps(text, ensure_ascii=False)[1:-1]
    )
    triples = pc.binary_join_element_wise("[", _numbers(starts), ", ", _numbers(ends), ', "', dumped, '"]', "")
    return pc.binary_join(pa.ListArray.from_arrays(_offsets(words), triples), ", ")


def _offsets(words: pa.ListArray) -> pa.Int32Array:
    """Return the offsets of a list array that starts at 0: each row's first word, and the number of all words."""
    lengths = pc.fill_null(pc.list_value_length(words), 0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _numbers(seconds: pa.DoubleArray) -> pa.StringArray:
    """Return numbers as JSON in Python's form: whole numbers as "17.0", which Arrow would write as "17"."""
    encoded = seconds.dictionary_encode()  # times repeat, since a word often starts when another ends
    values = encoded.dictionary
    is_whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 1e9))
    numbers = pc.binary_join_element_wise(pc.cast(values, pa.string()), pc.if_else(is_whole, ".0", ""), "")
    return numbers.take(encoded.indices)


def _map_rare(is_rare: pa.BooleanArray, texts: pa.StringArray, function: Callable[[str], str]) -> pa.StringArray:
    """Return the texts with a Python function applied to those marked as rare."""
    rare = texts.filter(is_rare)
    return pc.replace_with_mask(texts, is_rare, pa.array([function(text) for text in rare.to_pylist()], pa.string()))
