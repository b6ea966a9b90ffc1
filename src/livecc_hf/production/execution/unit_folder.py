"""The folder of a run's finished units, each of which is written in one step."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...utils.atomic import flush
from ...utils.text import one_line
from .. import watchdog
from .units import StageStats, UnitState

ROWS_FILE, DROPPED_FILE, STATS_FILE = "clips.parquet", "dropped.parquet", "stats.json"


class UnitFolder:
    """The finished units of a run: folders `NNNNNN/` with kept rows, dropped rows and statistics.

    Args:
        folder: that holds the units.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def path(self, number: int) -> Path:
        """Return the folder of a unit."""
        return self.folder / f"{number:06d}"

    def is_done(self, number: int) -> bool:
        """Return whether a unit is finished."""
        return (self.path(number) / STATS_FILE).is_file()

    def write(self, unit: UnitState) -> None:
        """Write a unit, unless it is finished already.

        Raises:
            OSError: if the disk is full; no partial unit is left.
        """
        partial = self.folder / f".{unit.number:06d}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            pq.write_table(unit.rows, partial / ROWS_FILE, compression="zstd")
            pq.write_table(unit.dropped, partial / DROPPED_FILE, compression="zstd")
            (partial / STATS_FILE).write_text(json.dumps([asdict(item) for item in unit.stats]))
            for file in partial.iterdir():
                flush(file)
            partial.rename(self.path(unit.number))
            flush(self.folder)
        except OSError:
            if not self.is_done(unit.number):
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def remove_partial(self) -> None:
        """Remove partial units and other temporary files of a killed run."""
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for marks in self.folder.glob(".*.attempts"):
            marks.unlink(missing_ok=True)
        watchdog.clear(self.folder)

    def remove(self, number: int) -> None:
        """Remove a finished unit in one step, so that a kill leaves no half of it."""
        gone = self.folder / f".{number:06d}.{os.getpid()}.partial"
        self.path(number).rename(gone)
        shutil.rmtree(gone)

    def numbers(self) -> list[int]:
        """Return the numbers of the finished units, in order."""
        found = (path.parent.name for path in self.folder.glob(f"*/{STATS_FILE}"))
        return sorted(int(name) for name in found if name.isdigit())

    def rows(self) -> Iterator[pa.Table]:
        """Yield the kept rows of each finished unit, in order."""
        for number in self.numbers():
            with self._readable(number):
                table = pq.read_table(self.path(number) / ROWS_FILE)
            yield table

    def ids(self, number: int) -> pa.ChunkedArray:
        """Return the ids of the kept rows of a finished unit."""
        with self._readable(number):
            return pq.read_table(self.path(number) / ROWS_FILE, columns=["id"])["id"]

    def schemas(self) -> Iterator[pa.Schema]:
        """Yield the schema of each finished unit that has kept rows, in order."""
        for number in self.numbers():
            with self._readable(number):
                file = pq.ParquetFile(self.path(number) / ROWS_FILE)
            if file.metadata.num_rows:
                yield file.schema_arrow

    def dropped(self) -> Iterator[pa.Table]:
        """Yield the dropped rows of each finished unit, in order."""
        for number in self.numbers():
            with self._readable(number):
                table = pq.read_table(self.path(number) / DROPPED_FILE)
            yield table

    def stats(self, number: int) -> list[StageStats]:
        """Return the statistics of a finished unit."""
        with self._readable(number):
            return [StageStats(**item) for item in json.loads((self.path(number) / STATS_FILE).read_bytes())]

    @contextmanager
    def _readable(self, number: int) -> Iterator[None]:
        """Raise a ValueError that names the way out if a file of the unit is damaged or missing."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            # PyArrow's errors about damage have no number; others, such as of permissions, are not about the content.
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise
            raise ValueError(
                f"a file of {self.path(number)} is damaged ({one_line(error)}): remove this folder and run the same "
                "command again to make the unit again"
            ) from error
