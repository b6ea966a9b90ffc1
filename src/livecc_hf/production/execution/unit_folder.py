"""The folder of a run's finished units, each written whole or not at all."""

from __future__ import annotations

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
    """The finished units of a run: folders `NNNNNN/` with rows, dropped rows and statistics.

    Args:
        folder: that holds them.
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
            OSError: if the disk is full; no partial unit is left behind.
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
        """Remove the partial files of a run that was killed."""
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for marks in self.folder.glob(".*.attempts"):
            marks.unlink(missing_ok=True)
        watchdog.clear(self.folder)

    def remove(self, number: int) -> None:
        """Remove a finished unit; it is gone whole even if this process is killed."""
        gone = self.folder / f".{number:06d}.{os.getpid()}.partial"
        self.path(number).rename(gone)
        shutil.rmtree(gone)

    def numbers(self) -> list[int]:
        """Return the numbers of the finished units, in order."""
        found = (path.parent.name for path in self.folder.glob(f"*/{STATS_FILE}"))
        return sorted(int(name) for name in found if name.isdigit())

    def rows(self) -> Iterator[pa.Table]:
        """Yield the rows of the finished units, in order."""
        for number in self.numbers():
            with self._readable(number):
                table = pq.read_table(self.path(number) / ROWS_FILE)
            yield table

    def ids(self, number: int) -> pa.ChunkedArray:
        """Return the ids of a finished unit."""
        with self._readable(number):
            return pq.read_table(self.path(number) / ROWS_FILE, columns=["id"])["id"]

    def schemas(self) -> Iterator[pa.Schema]:
        """Yield the columns of the finished units that hold any row."""
        for number in self.numbers():
            with self._readable(number):
                file = pq.ParquetFile(self.path(number) / ROWS_FILE)
            if file.metadata.num_rows:
                yield file.schema_arrow

    def dropped(self) -> Iterator[pa.Table]:
        """Yield the dropped rows of the finished units, in order."""
        for number in self.numbers():
            with self._readable(number):
                table = pq.read_table(self.path(number) / DROPPED_FILE)
            yield table

    def stats(self, number: int) -> list[StageStats]:
        """Return the statistics of a finished unit."""
        with self._readable(number):
            return [StageStats(**item) for item in json.loads((self.path(number) / STATS_FILE).read_text())]

    @contextmanager
    def _readable(self, number: int) -> Iterator[None]:
        """Raise one clear error where a file of the unit is damaged or missing."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"a file of {self.path(number)} is damaged ({one_line(error)}): remove this folder and run the same "
                "command again, which makes the unit again"
            ) from error
