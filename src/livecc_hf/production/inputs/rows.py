"""Converts lines and rows of a manifest into a table of videos or clips; invalid ones become dropped rows."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...captions.arrow import LINE, WORD, flat_times, timed_array
from ...captions.words import END_KEYS, START_KEYS, Lost, TimedItems, timed_arrays, usable_items
from ...data.media.paths import expand_user
from ..schemas import DROPPED_SCHEMA, SUBTITLES, VIDEO_SCHEMA

STAGE = "input"  # the stage's name in dropped rows
_DETAIL_CHARS = 200
_MOST = 2**31  # seconds or pixels must be below it
_EXPECTED_NUMBER = f"expected a number from 0 to {_MOST - 1}"
_CAST_ERRORS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)
# Errors by which a malformed row is dropped; whatever it holds, it must not affect other rows.
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AttributeError)
_Timed = tuple[np.ndarray, np.ndarray, list[str]]


class RowReader:
    """Collects the rows of a unit.

    Args:
        root: folder at which relative paths start.
        schema: of the rows; default: videos.
    """

    def __init__(self, root: str, schema: pa.Schema = VIDEO_SCHEMA):
        self.root, self.schema = root, schema
        others = ("id", "video", "captions", "words", "faces")  # an input never has `faces`
        kinds = {item.name: item.type for item in schema if item.name not in others}
        self._text_keys = [name for name, kind in kinds.items() if pa.types.is_string(kind)]
        self._number_keys = [name for name in kinds if name not in self._text_keys]
        self._rows: list[dict[str, Any]] = []
        self._words: list[_Timed | None] = []
        self._lines: list[_Timed | None] = []
        self._tables: list[pa.Table] = []
        self._dropped: list[dict[str, Any]] = []

    def add_json(self, line: bytes, place: str) -> None:
        """Add a line of a JSON Lines manifest.

        Args:
            line: the line.
            place: name of the line, for messages.
        """
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            self.drop(place, None, "not_json", f"{place} is not JSON: {error}: {line[:60]!r}")
            return
        if not isinstance(row, dict):
            self.drop(place, None, "not_json", f"{place} holds a {type(row).__name__}: expected an object")
            return
        self.add(row, place)

    def add(self, row: Mapping[str, Any], place: str) -> None:
        """Add a row for a video.

        Args:
            row: values by column; all but `video` may be missing.
            place: name of the row's source, for messages.
        """
        video = row.get("video")
        if not isinstance(video, str) or not video:
            self.drop(place, None, "no_video", f"{place}: video is {video!r}: expected a path or URL")
            return
        try:
            words, *lost = _timed(row.get("words"), "words", "word")
            lines, *others = _timed(row.get(SUBTITLES), SUBTITLES, "text")
            values: dict[str, str | float | None] = {key: _text(row.get(key), key) for key in self._text_keys}
            values |= {key: _number(row.get(key), key) for key in self._number_keys}
            captions = _text(row.get("captions"), "captions")
            given = row.get("id")
            identity = _sound(video if given is None or given == "" else str(given), "id")
            path = self._absolute(_sound(video, "video"))
            values |= {"id": identity, "video": path, "captions": captions and self._absolute(captions)}
        except _MALFORMED as error:
            self.drop(_printable(row.get("id") or video), _printable(video), "malformed", f"{place}: {error}")
            return
        self._rows.append(values)
        self._words.append(words)
        self._lines.append(lines)
        self._note_lost(identity, path, place, filter(None, [*lost, *others]))

    def add_table(self, rows: pa.Table, name: str, first_row: int) -> None:
        """Add rows of a Parquet file, column by column; rows with an invalid value are dropped.

        Args:
            rows: as `ParquetReader.read` returns them.
            name: of the file, for messages.
            first_row: number of the first row in the file.
        """
        faults: dict[int, str] = {}
        lost: dict[int, Lost] = {}
        given = _paths_of(rows["video"])
        columns = {"id": _first_text(_cast(rows, "id", pa.string(), faults), given), "video": self._all_absolute(given)}
        columns["captions"] = self._all_absolute(_cast(rows, "captions", pa.string(), faults))
        columns["words"] = _timed_or_null(rows, "words", WORD, faults, lost)
        for field in self.schema:
            if field.name == "faces":
                columns["faces"] = pa.nulls(len(rows), field.type)
            elif field.name not in columns:
                values = _cast(rows, field.name, field.type, faults)
                columns[field.name] = (
                    _check_numbers(values, field, faults) if field.name in self._number_keys else values
                )
        if "start_s" in self._number_keys:
            _check_clips(columns["start_s"], columns["end_s"], faults)
        table = pa.table({field.name: columns[field.name] for field in self.schema}, schema=self.schema)
        if SUBTITLES in rows.column_names:
            table = table.append_column(SUBTITLES, _timed_or_null(rows, SUBTITLES, LINE, faults, lost))
        present = pc.fill_null(pc.not_equal(given, ""), False).to_numpy(zero_copy_only=False)
        for index in np.flatnonzero(~present).tolist():
            place = f"row {first_row + index} of {name}"
            self.drop(place, None, "no_video", f"{place}: video is empty: expected a path or URL")
            faults.pop(index, None)
        for index, fault in sorted(faults.items()):
            identity, video = columns["id"][index].as_py(), given[index].as_py()
            self.drop(identity, video, "malformed", f"row {first_row + index} of {name}: {fault}")
            present[index] = False
        for index in sorted(lost.keys() & set(np.flatnonzero(present).tolist())):
            identity, video = columns["id"][index].as_py(), given[index].as_py()
            self._note_lost(identity, video, f"row {first_row + index} of {name}", [lost[index]])
        self._tables.append(table.filter(pa.array(present)))

    def _all_absolute(self, paths: pa.Array) -> pa.Array:
        return pa.array([path and self._absolute(path) for path in paths.to_pylist()], pa.string())

    def _note_lost(self, identity: str, video: str, place: str, lost: Iterable[Lost]) -> None:
        """Add dropped rows for the unusable words or lines of a kept row."""
        for found in lost:
            self.drop(identity, video, "lost_words", f"{place}: {found}")

    def drop(self, identity: str, video: str | None, reason: str, detail: str) -> None:
        """Add a dropped row."""
        detail = _printable(detail[:_DETAIL_CHARS])
        row = {"id": identity, "video": video, "stage": STAGE, "reason": reason, "detail": detail}
        self._dropped.append(row)

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Return the rows, without those whose id occurs before, and the dropped rows."""
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
        # Tables without inline captions lack that column, which is then null.
        table = pa.concat_tables(tables, promote_options="default") if tables else self.schema.empty_table()
        table = table.combine_chunks()
        return self._without_repeats(table), pa.Table.from_pylist(self._dropped, DROPPED_SCHEMA)

    def _without_repeats(self, table: pa.Table) -> pa.Table:
        seen, keep = set(), []
        for identity, video in zip(table["id"].to_pylist(), table["video"].to_pylist(), strict=True):
            keep.append(identity not in seen)
            seen.add(identity)
            if not keep[-1]:
                self.drop(identity, video, "repeated", f"id {identity} is not unique: give each row an id of its own")
        return table if all(keep) else table.filter(pa.array(keep))

    def _absolute(self, path: str) -> str:
        return path if "://" in path else str(Path(self.root, expand_user(path)))


def from_info_json(path: str | os.PathLike) -> dict[str, Any]:
    """Return title, category, language, duration, size and `page` (the page's URL) from yt-dlp's metadata.

    Raises:
        ValueError: if the file is not yt-dlp's metadata of a single video.
    """
    try:
        info = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(info, dict) or info.get("_type", "video") != "video":
        raise ValueError(
            f"{path} does not describe a single video: expected an .info.json file as yt-dlp writes it for a video"
        )
    categories = info.get("categories")
    category = next(iter(categories), None) if isinstance(categories, list) else categories
    return {
        "title": info.get("title"),
        "category": info.get("category") or (category if isinstance(category, str) else None),
        "language": info.get("language"),
        "duration_s": info.get("duration"),
        "width_px": info.get("width"),
        "height_px": info.get("height"),
        "page": info.get("webpage_url"),
    }


def _text(value: Any, key: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is {value!r:.60}: expected text")
    return None if value is None else _sound(value, key)


def _sound(text: str, key: str) -> str:
    """Return a text that can be encoded and used as a file name.

    Raises:
        ValueError: if it holds a lone surrogate, as JSON allows, or a zero byte.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key} holds half of a character (a lone surrogate): {text!a:.60}") from None
    if "\0" in text:
        raise ValueError(f"{key} holds a zero byte: {text!r:.60}")
    return text


def _printable(value: Any) -> str:
    return str(value).encode(errors="backslashreplace").decode()


def _number(value: Any, key: str) -> float | int | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value < _MOST:
        raise ValueError(f"{key} is {value!r:.60}: {_EXPECTED_NUMBER}")
    return round(value) if key.endswith("_px") else float(value)


def _timed(items: Any, key: str, text_key: str) -> tuple[_Timed | None, Lost | None]:
    """Return starts, ends and texts of a row's words or lines, ordered by their ends, and a record of unusable ones."""
    if items is None:
        return None, None
    if isinstance(items, str) or not isinstance(items, Sequence | np.ndarray):
        raise ValueError(f"{key} is {items!r:.60}: expected a list of [start, end, text]")
    start_s, end_s, texts, _, lost = _items(list(items), key, text_key)
    order = np.argsort(end_s, kind="stable")
    if "" in texts:
        order = order[np.array([*map(bool, texts)])[order]]
    if len(order) < len(texts) or (np.diff(order) < 0).any():
        start_s, end_s, texts = start_s[order], end_s[order], [texts[i] for i in order]
    return (start_s, end_s, texts), lost


def _items(items: Sequence[Any], key: str, text_key: str) -> TimedItems:
    if not (len(items) and isinstance(items[0], Mapping)):
        return usable_items(items, key)
    names = [
        next((name for name in choice if name in items[0]), choice[0])
        for choice in (START_KEYS, END_KEYS, (text_key, "text", "word"))
    ]
    try:  # the fast way, for items that all have the same keys
        return TimedItems(*timed_arrays([*map(itemgetter(*names), items)], key))
    except _MALFORMED:
        return usable_items(items, key)


def _paths_of(column: pa.ChunkedArray) -> pa.Array:
    """Return the paths of videos; a Video feature of `datasets` holds them in a struct."""
    array = _whole(column)
    return (pc.struct_field(array, "path") if pa.types.is_struct(array.type) else array).cast(pa.string())


def _first_text(*columns: pa.Array) -> pa.Array:
    """Return for each row the first of its texts that is not empty."""
    return pc.coalesce(*(pc.if_else(pc.equal(column, ""), None, column) for column in columns))


def _cast(rows: pa.Table, name: str, kind: pa.DataType, faults: dict[int, str]) -> pa.Array:
    """Return a column cast to another type, with null and an entry in `faults` for each invalid value."""
    if name not in rows.column_names:
        return pa.nulls(len(rows), kind)
    array = _whole(rows[name])
    if pa.types.is_integer(kind) and pa.types.is_floating(array.type):
        return array  # `_check_numbers` rounds it
    try:
        return array.cast(kind)
    except _CAST_ERRORS:
        return pa.array([_cast_one(value, kind, name, row, faults) for row, value in enumerate(array)], kind)


def _cast_one(value: pa.Scalar, kind: pa.DataType, name: str, row: int, faults: dict[int, str]) -> Any:
    try:
        return value.cast(kind).as_py() if value.is_valid else None
    except _CAST_ERRORS:
        expected = "expected text" if pa.types.is_string(kind) else _EXPECTED_NUMBER
        faults.setdefault(row, f"{name} is {value.as_py()!r:.60}: {expected}")
        return None


def _check_numbers(numbers: pa.Array, field: pa.Field, faults: dict[int, str]) -> pa.Array:
    """Return numbers in the field's type, with null and an entry in `faults` for each out of range; see `_number`."""
    values = pc.fill_null(numbers.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    is_wrong = ~((values >= 0) & (values < _MOST))
    for row in np.flatnonzero(is_wrong).tolist():
        faults.setdefault(row, f"{field.name} is {values[row]}: {_EXPECTED_NUMBER}")
    numbers = pc.if_else(pa.array(is_wrong), None, numbers)
    is_rounded = pa.types.is_integer(field.type) and pa.types.is_floating(numbers.type)
    return (pc.round(numbers) if is_rounded else numbers).cast(field.type)


def _check_clips(start_s: pa.Array, end_s: pa.Array, faults: dict[int, str]) -> None:
    is_sound = pc.fill_null(pc.greater(end_s, start_s), False).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(~is_sound).tolist():
        span = f"{start_s[row].as_py()} to {end_s[row].as_py()} s"
        faults.setdefault(row, f"the clip runs from {span}: expected an end after its start")


def _timed_or_null(
    rows: pa.Table, key: str, kind: pa.StructType, faults: dict[int, str], lost: dict[int, Lost]
) -> pa.Array:
    """Return a column of words or lines in the package's type, from any list of lists or structs.

    Args:
        rows: the table.
        key: the column's name.
        kind: type of the column's items.
        faults: receives an entry for each row without a usable item.
        lost: receives an entry for each row with some unusable items.
    """
    if key not in rows.column_names:
        return pa.nulls(len(rows), pa.list_(kind))
    column = _whole(rows[key])
    array, wrong = None, np.arange(len(column))
    if _is_timed(column.type, kind):
        array = _timed_array(column, kind)
        wrong = np.array(sorted(flat_times(array, needs_text=True).faults), np.int64)
        if not wrong.size:
            return array
    found: list[_Timed | None] = []
    for row, items in zip(wrong.tolist(), column.take(pa.array(wrong)).to_pylist(), strict=True):
        words = None
        try:
            words, some_lost = _timed(items, key, kind[2].name)
            if some_lost:
                lost.setdefault(row, some_lost)
        except _MALFORMED as error:
            faults.setdefault(row, str(error))
        found.append(words)
    converted = timed_array(found, kind)
    if array is None:
        return converted
    places = np.arange(len(array))
    places[wrong] = len(array) + np.arange(len(wrong))
    return pa.concat_arrays([array, converted.cast(array.type)]).take(pa.array(places))


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _timed_array(array: pa.ListArray, kind: pa.StructType) -> pa.ListArray:
    """Return words or lines in the package's type, field by field: a cast would set fields of other names to null."""
    array = array.cast(pa.list_(array.type.value_type))
    values = [part.cast(field.type) for part, field in zip(array.flatten().flatten(), kind, strict=True)]
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    structs = pa.StructArray.from_arrays(values, fields=list(kind))
    return pa.ListArray.from_arrays(offsets, structs, mask=array.is_null())


def _is_timed(kind: pa.DataType, wanted: pa.StructType) -> bool:
    """Return whether a column has the type of words or lines, whatever the width of its numbers and strings."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_struct(kind.value_type):
        return False
    names = [field.name for field in wanted]
    if [field.name for field in kind.value_type] not in (names, [name.removesuffix("_s") for name in names]):
        return False  # dataset folders have names without the unit: `start`, `end`
    *times, text = [field.type for field in kind.value_type]
    is_text = pa.types.is_string(text) or pa.types.is_large_string(text)
    return is_text and all(pa.types.is_floating(time) or pa.types.is_integer(time) for time in times)
