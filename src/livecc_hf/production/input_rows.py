"""Turns lines and rows of a manifest into a table of videos; what does not fit is dropped with its place."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.words import timed_arrays
from .caption_words import LINE, LINES
from .columns import timed_array
from .records import DROPPED_SCHEMA, SUBTITLES, VIDEO_SCHEMA, WORD, WORDS

STAGE = "input"  # the name under which dropped rows are counted
_DETAIL_CHARS = 200
# Whatever a scraped line may hold, it must not cost the lines around it.
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AttributeError)
_Timed = tuple[np.ndarray, np.ndarray, list[str]]


class RowReader:
    """Collects the rows of a unit.

    Args:
        root: where relative paths start.
        schema: of the table; default: videos.
    """

    def __init__(self, root: str, schema: pa.Schema = VIDEO_SCHEMA):
        self.root, self.schema = root, schema
        kinds = {item.name: item.type for item in schema if item.name not in ("id", "video", "captions", "words")}
        self._text_keys = [name for name, kind in kinds.items() if pa.types.is_string(kind)]
        self._number_keys = [name for name in kinds if name not in self._text_keys]
        self._rows: list[dict[str, Any]] = []
        self._words: list[_Timed | None] = []
        self._lines: list[_Timed | None] = []
        self._tables: list[pa.Table] = []
        self._dropped: list[dict[str, Any]] = []

    def add_json(self, line: bytes, place: str) -> None:
        """Adds a line of a manifest."""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.drop(place, None, "not_json", f"{place} is not JSON: {error}: {line[:60]!r}")
            return
        if not isinstance(row, dict):
            self.drop(place, None, "not_json", f"{place} holds {type(row).__name__}: expected an object")
            return
        self.add(row, place)

    def add(self, row: Mapping[str, Any], place: str) -> None:
        """Adds a video, or a clip."""
        video = row.get("video")
        if not isinstance(video, str) or not video:
            self.drop(place, None, "no_video", f"{place}: video is {video!r}: expected a path or URL")
            return
        try:
            words = _timed(row.get("words"), "words", "word")
            lines = _timed(row.get(SUBTITLES), SUBTITLES, "text")
            values = {key: _text(row.get(key), key) for key in self._text_keys}
            values |= {key: _number(row.get(key), key) for key in self._number_keys}
            if "start_s" in self._number_keys:
                _check_clip(values["start_s"], values["end_s"])
            captions = _text(row.get("captions"), "captions")
            identity = row.get("id")
            values["id"] = _text(video if identity is None or identity == "" else str(identity), "id")
            values["video"] = self._absolute(_text(video, "video"))
            values["captions"] = captions and self._absolute(captions)
        except _MALFORMED as error:
            self.drop(_printable(row.get("id") or video), _printable(video), "malformed", f"{place}: {error}")
            return
        self._rows.append(values)
        self._words.append(words)
        self._lines.append(lines)

    def add_table(self, rows: pa.Table, name: str, first_row: int) -> None:
        """Adds rows of a Parquet file; whole columns where they have the right type, else row by row."""
        timed = {"words": WORDS, SUBTITLES: LINES}
        if any(key in rows.column_names and not _is_timed(rows[key].type, kind) for key, kind in timed.items()):
            for number, row in enumerate(rows.to_pylist(), first_row):
                self.add(row, f"row {number} of {name}")
            return
        try:
            table = self._cast(rows)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{name}: a column has another type than expected: {error}") from error
        present = pc.fill_null(pc.not_equal(table["video"], ""), False)
        for index in np.flatnonzero(~present.to_numpy()):
            place = f"row {first_row + int(index)} of {name}"
            self.drop(place, None, "no_video", f"{place}: video is empty: expected a path or URL")
        self._tables.append(table.filter(present))

    def _cast(self, rows: pa.Table) -> pa.Table:
        videos = pa.array([None if not v else self._absolute(v) for v in rows["video"].to_pylist()], pa.string())
        columns = {}
        for field in self.schema:
            if field.name == "video":
                columns[field.name] = videos
            elif field.name == "id":
                given = rows["id"].cast(pa.string()) if "id" in rows.column_names else pa.nulls(len(rows), pa.string())
                columns[field.name] = pc.coalesce(given, rows["video"].cast(pa.string()))
            elif field.name not in rows.column_names:
                columns[field.name] = pa.nulls(len(rows), field.type)
            elif field.name == "captions":
                paths = [v and self._absolute(v) for v in rows["captions"].to_pylist()]
                columns[field.name] = pa.array(paths, pa.string())
            elif field.name == "words":
                columns[field.name] = _timed_column(rows["words"], WORD)
            else:
                columns[field.name] = rows[field.name].cast(field.type)
        table = pa.table(columns, schema=self.schema)
        if SUBTITLES in rows.column_names:
            table = table.append_column(SUBTITLES, _timed_column(rows[SUBTITLES], LINE))
        return table

    def drop(self, identity: str, video: str | None, reason: str, detail: str) -> None:
        """Counts a row that cannot be used."""
        detail = _printable(detail[:_DETAIL_CHARS])
        row = {"id": identity, "video": video, "stage": STAGE, "reason": reason, "detail": detail}
        self._dropped.append(row)

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Returns the rows, each id once, and what was dropped."""
        tables = list(self._tables)
        if self._rows:
            arrays = {
                field.name: timed_array(self._words, WORD)
                if field.name == "words"
                else pa.array([row.get(field.name) for row in self._rows], field.type)
                for field in self.schema
            }
            table = pa.table(arrays, schema=self.schema)
            if any(lines is not None for lines in self._lines):
                table = table.append_column(SUBTITLES, timed_array(self._lines, LINE))
            tables.append(table)
        # With or without inline captions: what one table lacks is null there.
        table = pa.concat_tables(tables, promote_options="default") if tables else self.schema.empty_table()
        table = table.combine_chunks()
        return self._without_repeats(table), pa.Table.from_pylist(self._dropped, DROPPED_SCHEMA)

    def _without_repeats(self, table: pa.Table) -> pa.Table:
        seen, keep = set(), []
        for identity, video in zip(table["id"].to_pylist(), table["video"].to_pylist(), strict=True):
            keep.append(identity not in seen)
            seen.add(identity)
            if not keep[-1]:
                self.drop(identity, video, "repeated", f"id {identity} came before: give each row an id of its own")
        return table if all(keep) else table.filter(pa.array(keep))

    def _absolute(self, path: str) -> str:
        return path if "://" in path else str(Path(self.root, path))


def from_info_json(path: str | os.PathLike) -> dict[str, Any]:
    """Return title, category, language, duration, size and `page` (the address) from yt-dlp's metadata.

    Raises:
        ValueError: if the file is no such metadata.
    """
    try:
        info = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(info, dict) or info.get("_type", "video") != "video":
        raise ValueError(f"{path} describes no single video: expected the .info.json that yt-dlp writes for one")
    categories = info.get("categories") or [None]
    return {
        "title": info.get("title"),
        "category": info.get("category") or categories[0],
        "language": info.get("language"),
        "duration_s": info.get("duration"),
        "width_px": info.get("width"),
        "height_px": info.get("height"),
        "page": info.get("webpage_url"),
    }


def _text(value: Any, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is {value!r:.60}: expected text")
    if value is not None:
        _check_characters(value, key)
    return value


def _check_characters(text: str, key: str) -> None:
    """JSON can hold half of a character, and names a zero, which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{key} holds half of a character (a surrogate without its other half): {text!a:.60}"
        ) from None
    if "\0" in text:
        raise ValueError(f"{key} holds a zero byte: {text!r:.60}")


def _printable(value: Any) -> str:
    return str(value).encode(errors="backslashreplace").decode()


def _number(value: Any, key: str) -> float | int | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value < 2**31:
        raise ValueError(f"{key} is {value!r:.60}: expected a number, 0 or more")
    return round(value) if key.endswith("_px") else float(value)


def _check_clip(start_s: float | None, end_s: float | None) -> None:
    if start_s is None or end_s is None or end_s <= start_s:
        raise ValueError(f"the clip runs from {start_s} to {end_s} s: expected an end after its start")


def _timed(items: Any, key: str, text_key: str) -> _Timed | None:
    """Return starts, ends and texts of a row's words or lines, by their ends; `None` where it has none."""
    if items is None:
        return None
    if isinstance(items, str) or not isinstance(items, Sequence | np.ndarray):
        raise ValueError(f"{key} is {items!r:.60}: expected a list of [start, end, text]")
    if len(items) and isinstance(items[0], Mapping):
        names = [
            next((name for name in choice if name in items[0]), choice[0])
            for choice in (("start_s", "start"), ("end_s", "end"), (text_key, "text", "word"))
        ]
        items = [*map(itemgetter(*names), items)]
    start_s, end_s, texts = timed_arrays(items, key)
    order = np.argsort(end_s, kind="stable")
    if "" in texts:
        order = order[np.array([*map(bool, texts)])[order]]
    if len(order) < len(texts) or (np.diff(order) < 0).any():
        start_s, end_s, texts = start_s[order], end_s[order], [texts[i] for i in order]
    return start_s, end_s, texts


def _timed_column(column: pa.ChunkedArray, kind: pa.StructType) -> pa.ChunkedArray:
    """Return a column of words or lines in the package's type. A cast would leave fields of other names empty."""
    chunks = []
    for chunk in column.chunks:
        chunk = chunk.cast(pa.list_(chunk.type.value_type))
        values = [array.cast(field.type) for array, field in zip(chunk.flatten().flatten(), kind, strict=True)]
        counts = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        structs = pa.StructArray.from_arrays(values, fields=list(kind))
        chunks.append(pa.ListArray.from_arrays(offsets, structs, mask=chunk.is_null()))
    return pa.chunked_array(chunks, pa.list_(kind))


def _is_timed(kind: pa.DataType, wanted: pa.ListType) -> bool:
    """Return whether a column has the type of words or lines, but for how its numbers and texts are stored."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_struct(kind.value_type):
        return False
    names = [field.name for field in wanted.value_type]
    # Datasets leave the unit out of the names.
    return [field.name for field in kind.value_type] in (names, [name.removesuffix("_s") for name in names])
