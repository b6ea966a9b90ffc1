"""JSON Lines files of rows that survive being killed: a header, then a line a row, each on disk before the next."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic, NamedTuple, TypeVar, cast

from livecc_hf.utils.atomic import replaced_when_done

from .header import Header, is_header
from .rows import Row, row_from_json, row_to_json

RowT = TypeVar("RowT", bound=Row)
RowT_co = TypeVar("RowT_co", bound=Row, covariant=True)


class DuplicateRowError(ValueError):
    """Two rows of one file have the same key."""


@dataclass
class RowSet(Generic[RowT_co]):
    """Rows with what is known of where they came from; `RowSet[Row]` where their kind is not known.

    Attributes:
        header: what made them.
        rows: in the file's order.
        source: the file or folder.
        layout_name: what the file's layout is called.
        notes: what a reader of the score should know, one line each.
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
                    f"{self.source}: rows {seen[row.id]} and {number} have the same key {row.id!r}: a row counts once; "
                    "remove one of them"
                )
            seen[row.id] = number

    def of(self, kind: type[RowT]) -> RowSet[RowT]:
        """Return these rows as rows of one kind.

        Raises:
            ValueError: if they are of another.
        """
        if not all(isinstance(row, kind) for row in self.rows):
            raise ValueError(f"{self.source} holds {self.header.layout} rows: expected {kind.layout} rows")
        return cast("RowSet[RowT]", self)


class Lines(NamedTuple):
    """A file's JSON values.

    Attributes:
        values: of the lines that are not blank.
        numbers: of those lines, from 1.
        whole_bytes: how much of the file is whole lines.
        torn: what stands after them: a line whose writer was killed.
    """

    values: list[Any]
    numbers: list[int]
    whole_bytes: int
    torn: bytes


def read_lines(path: str | os.PathLike) -> Lines:
    """Return the JSON values of a file's lines; a last line that is cut off is set apart.

    Raises:
        OSError: if it cannot be read.
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
            except ValueError as error:
                # A kill leaves a part of a line; a crash of the machine may leave zeros.
                if is_last or not line.strip(b"\0 \r"):
                    return Lines(values, numbers, start, data[start:])
                raise ValueError(f"line {number} of {path} is not JSON: {error}") from error
            numbers.append(number)
        start += len(line) + (not is_last)
    return Lines(values, numbers, start, b"")


def read_rows(path: str | os.PathLike) -> RowSet[Row]:
    """Read a file of ours.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it has no header, a line is not what the header says, or two rows have one key.
    """
    lines = read_lines(path)
    if not lines.values or not is_header(lines.values[0]):
        raise ValueError(f"{path} has no header of livecc-hf in its first line")
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
    notes = [f"{path}: the last line is cut off and left out"] if lines.torn else []
    return RowSet(header, rows, str(path), notes=notes)


class RowFile:
    """Appends rows to a file; opened again after a kill, it goes on where it was.

    A row is on disk when `append` returns. What a kill left of a line is cut off when the file is opened. One
    process writes at a time.

    Args:
        path: the file; folders above it are made.
        header: what makes the rows.

    Attributes:
        rows: what was there when the file was opened.

    Raises:
        OSError: if it cannot be written.
        ValueError: if it holds something else, rows that were made in another way, or one key twice.
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
        if not lines.values and lines.torn:  # killed in the header
            self._check_ours(lines.torn)
            os.truncate(self.path, 0)
            return
        there = read_rows(self.path)
        there.header.check_same(self.header, self.path)
        self.rows = list(there.rows)
        if (there.header.n_rows, there.header.limit) != (self.header.n_rows, self.header.limit):
            write_rows(self.path, self.header, self.rows)  # a trial becomes more
            return
        if lines.torn:
            os.truncate(self.path, lines.whole_bytes)
        elif not self.path.read_bytes().endswith(b"\n"):  # a whole line, but for its end
            with self.path.open("ab") as file:
                file.write(b"\n")

    def _check_ours(self, torn: bytes) -> None:
        ours = json.dumps(self.header.to_json())[:12].encode()
        if torn.strip(b"\0") and not torn.startswith(ours[: len(torn)]):
            raise ValueError(f"{self.path} is not a file of predictions: choose another place for the new ones")

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._keys

    def append(self, row: Row) -> None:
        """Write a row.

        Raises:
            DuplicateRowError: if there is a row with its key.
            OSError: if it cannot be written.
        """
        if row.id in self._keys:
            raise DuplicateRowError(f"{self.path} has a row {row.id!r} already: a row is written once")
        self._write(row_to_json(row))
        self._keys.add(row.id)

    def _write(self, value: dict[str, Any]) -> None:
        data = (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except BaseException:  # a full disk: nothing may be appended to a part of a line
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
    """Open a file to write any text to, whatever a model made of it."""
    return path.open("w", encoding="utf-8", errors="surrogatepass", newline="\n")


def write_rows(path: str | os.PathLike, header: Header, rows: Iterable[Row]) -> None:
    """Write a whole file in one step: it is there whole or not at all."""
    with replaced_when_done(path) as partial, open_text(partial) as file:
        for value in (header.to_json(), *map(row_to_json, rows)):
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
