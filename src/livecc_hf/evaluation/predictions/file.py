"""JSON Lines files of rows: a header, then one line per row, written so that a killed process loses no row."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, TypeVar, cast

from livecc_hf.utils.atomic import atomic_write

from .header import Header, is_header
from .rows import Row, row_from_json, row_to_json

TORN_NOTE = "{path}: the last line is incomplete and left out"
RowT = TypeVar("RowT", bound=Row)
RowT_co = TypeVar("RowT_co", bound=Row, covariant=True)


class DuplicateRowError(ValueError):
    """Raised if two rows of a file have the same key."""


@dataclass
class RowSet(Generic[RowT_co]):
    """Rows of one file with their origin; `RowSet[Row]` if the type of the rows is not known.

    Attributes:
        header: how the rows were made.
        rows: the rows, in file order.
        source: the file or folder.
        layout_name: name of the file's format.
        notes: remarks for readers of the score, one line each.

    Raises:
        DuplicateRowError: if two rows have the same key.
    """

    header: Header
    rows: Sequence[RowT_co]
    source: str
    layout_name: str = "livecc-hf"
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        seen: dict[str, int] = {}
        for number, row in enumerate(self.rows, 1):
            if row.id in seen:
                raise DuplicateRowError(
                    f"{self.source}: rows {seen[row.id]} and {number} have the same key {row.id!r}: remove one of them"
                )
            seen[row.id] = number

    def of(self, kind: type[RowT]) -> RowSet[RowT]:
        """Return this set, typed as rows of one type.

        Raises:
            ValueError: if a row has another type.
        """
        if not all(isinstance(row, kind) for row in self.rows):
            raise ValueError(f"{self.source} holds {self.header.layout} rows: expected {kind.layout} rows")
        return cast("RowSet[RowT]", self)


class Lines(NamedTuple):
    """The JSON values of a file's lines.

    Attributes:
        values: the value of each line that is not blank.
        numbers: the line number of each value, from 1.
        whole_bytes: size of the complete lines in bytes.
        torn: the bytes after them: a line whose writer was killed.
    """

    values: list[Any]
    numbers: list[int]
    whole_bytes: int
    torn: bytes


def read_lines(path: str | os.PathLike) -> Lines:
    """Return the JSON values of a file's lines; an incomplete last line is returned as `torn`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if another line is not JSON.
    """
    data = Path(path).read_bytes()
    values: list[Any] = []
    numbers: list[int] = []
    start = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        is_last = number == len(lines)
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                # A killed process leaves a part of a line; a crash of the machine may leave zero bytes.
                if is_last or not line.strip(b"\0 \r"):
                    return Lines(values, numbers, start, data[start:])
                raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
            numbers.append(number)
        start += len(line) + (not is_last)
    return Lines(values, numbers, start, b"")


def read_rows(path: str | os.PathLike) -> RowSet[Row]:
    """Read a file in this package's format.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it has no header, a row does not match the header's layout, or two rows have the same key.
    """
    lines = read_lines(path)
    if not lines.values or not is_header(lines.values[0]):
        raise ValueError(f"{path} does not start with a header of livecc-hf")
    try:
        header = Header.from_json(lines.values[0])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: the header cannot be used: {error}") from error
    rows = []
    for number, value in zip(lines.numbers[1:], lines.values[1:], strict=True):
        try:
            rows.append(row_from_json(header.layout, value))
        except ValueError as error:
            raise ValueError(f"line {number} of {path}: {error}") from error
    notes = [TORN_NOTE.format(path=path)] if lines.torn else []
    return RowSet(header, rows, str(path), notes=notes)


class RowFile:
    """Appends rows to a file, and continues a file that a killed process left behind.

    A row is on disk when `append` returns. An incomplete last line is removed when the file is opened. Only one process
    may write to the file.

    Args:
        path: the file; parent folders are created.
        header: how the rows are made.

    Attributes:
        rows: the rows that were in the file when it was opened.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if the file is not a prediction file, its rows were made with other settings, or a key occurs twice.
    """

    def __init__(self, path: str | os.PathLike, header: Header):
        self.path, self.header = Path(path), header
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[Row] = []
        self._repair()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._keys = {row.id for row in self.rows}
        if os.fstat(self._file).st_size == 0:
            self._write(header.to_json())

    def _repair(self) -> None:
        if not self.path.exists() or self.path.stat().st_size == 0:
            return
        lines = read_lines(self.path)
        if not lines.values and lines.torn:  # the process was killed while it wrote the header
            self._check_torn_header(lines.torn)
            os.truncate(self.path, 0)
            return
        existing = read_rows(self.path)
        if not existing.rows:  # nothing was made with other settings
            os.truncate(self.path, 0)
            return
        existing.header.check_same(self.header, self.path)
        self.rows = list(existing.rows)
        if (existing.header.n_rows, existing.header.limit) != (self.header.n_rows, self.header.limit):
            write_rows(self.path, self.header, self.rows)  # continues a run with another --limit
            return
        if lines.torn:
            os.truncate(self.path, lines.whole_bytes)
        elif not self.path.read_bytes().endswith(b"\n"):  # a complete row without its newline
            with self.path.open("ab") as file:
                file.write(b"\n")

    def _check_torn_header(self, torn: bytes) -> None:
        """Raise `ValueError` if a file's only, incomplete line does not begin like a header."""
        start = json.dumps(self.header.to_json())[:12].encode()
        if torn.strip(b"\0") and not torn.startswith(start[: len(torn)]):
            raise ValueError(f"{self.path} is not a file of predictions: choose another file for the results")

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._keys

    def append(self, row: Row) -> None:
        """Write a row to disk.

        Raises:
            DuplicateRowError: if the file already has a row with this key.
            OSError: if the row cannot be written.
        """
        if row.id in self._keys:
            raise DuplicateRowError(f"{self.path} already has a row {row.id!r}")
        self._write(row_to_json(row))
        self._keys.add(row.id)

    def _write(self, value: dict[str, Any]) -> None:
        data = (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except BaseException:  # such as a full disk: the next row must not continue an incomplete line
            os.truncate(self._file, size)
            raise

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_text(path: Path) -> IO[str]:
    """Open a UTF-8 file for writing that accepts lone surrogates, which a model's text can contain."""
    return path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n")


def write_rows(path: str | os.PathLike, header: Header, rows: Iterable[Row]) -> None:
    """Write a whole file in one step, so that a killed process leaves no partial file."""
    with atomic_write(path) as partial, open_text(partial) as file:
        for value in (header.to_json(), *map(row_to_json, rows)):
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
