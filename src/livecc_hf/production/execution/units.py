"""Work units: what the stages make of one, and how it is written so that it is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...endpoints.answer_cache import AnswerCacheError
from ...endpoints.chat import EndpointError
from ...messages import one_line
from ...utils.disk import is_disk_full
from .. import watchdog
from ..atomic import flush
from ..schemas import DROPPED_SCHEMA
from ..stages.base import DeviceError, Stage, StageBrokenError, StageResult, hours_of, split

ROWS_FILE, DROPPED_FILE, STATS_FILE = "clips.parquet", "dropped.parquet", "stats.json"
FAILED = "error"  # the reason of what a stage could not process
_ALL_FAILED_VIDEOS = 8  # fewer that all fail say nothing about the stage; one video may be many clips


@dataclass(frozen=True)
class StageStats:
    """What went through a stage.

    Attributes:
        name: of the stage.
        items_in, items_out: videos or clips.
        hours_in, hours_out: how much video that is, where the length is known.
        dropped: how many rows it dropped.
        errors: how many of those because it failed.
        seconds: how long it worked.
    """

    name: str
    items_in: int = 0
    items_out: int = 0
    hours_in: float = 0.0
    hours_out: float = 0.0
    dropped: int = 0
    errors: int = 0
    seconds: float = 0.0

    def __add__(self, other: StageStats) -> StageStats:
        sums = {key: value + getattr(other, key) for key, value in asdict(self).items() if key != "name"}
        return replace(self, **sums)


@dataclass(frozen=True)
class UnitState:
    """A unit on its way through the stages.

    Attributes:
        number: of the unit.
        rows: what is left of it.
        dropped: what is not.
        stats: of the stages so far.
    """

    number: int
    rows: pa.Table
    dropped: pa.Table
    stats: tuple[StageStats, ...]

    def after(self, result: StageResult, stats: StageStats) -> UnitState:
        """Returns the unit after one more stage."""
        dropped = pa.concat_tables([self.dropped, result.dropped.cast(DROPPED_SCHEMA)])
        return UnitState(self.number, result.kept, dropped, (*self.stats, stats))

    def to_bytes(self) -> bytes:
        """Returns the unit as it travels between processes; slices of larger tables do not take these along."""
        head = json.dumps([self.number, [asdict(item) for item in self.stats]]).encode()
        sink = pa.BufferOutputStream()
        sink.write(len(head).to_bytes(8, "little") + head)
        for table in (self.rows, self.dropped):
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> UnitState:
        """Reads what `to_bytes` returned."""
        length = int.from_bytes(data[:8], "little")
        number, stats = json.loads(data[8 : 8 + length])
        source = pa.BufferReader(pa.py_buffer(data)[8 + length :])
        rows, dropped = (pa.ipc.open_stream(source).read_all() for _ in range(2))
        return cls(number, rows, dropped, tuple(StageStats(**item) for item in stats))


def run_stage(stage: Stage, unit: UnitState, keep_going: bool = False) -> UnitState:
    """Run a unit through a stage, in batches that suit it.

    A batch on which the stage raises is halved until the item that it fails on is alone, which is dropped with the
    error.

    Args:
        stage: an opened stage.
        unit: what to process.
        keep_going: go on if the stage fails on every single row.

    Raises:
        StageBrokenError: if the stage fails on every row, and these are of eight videos or more, or a device fails.
        ImportError, EndpointError: if a package is missing, or the endpoint of a model is down.
        OSError: if the disk is full.
    """
    began = time.perf_counter()
    rows = unit.rows
    watchdog.watch().begin_stage(stage.name, [asdict(item) for item in unit.stats], len(rows))
    # Also what is empty goes through: its columns change.
    parts = [run_batch(stage, rows.slice(i, stage.batch_rows)) for i in range(0, max(len(rows), 1), stage.batch_rows)]
    return finish_stage(stage, unit, joined(stage, parts), time.perf_counter() - began, keep_going)


def finish_stage(stage: Stage, unit: UnitState, result: StageResult, seconds: float, keep_going: bool) -> UnitState:
    """Return the unit after a stage's work on it.

    Raises:
        StageBrokenError: see `run_stage`.
    """
    kept = result.kept.combine_chunks()
    if not len(kept) and _count_errors(result.dropped):
        kept = _of_nothing(stage, unit.rows, kept)
    result = StageResult(kept, result.dropped)
    return unit.after(result, _stats(stage, unit.rows, result, seconds, keep_going))


def _of_nothing(stage: Stage, rows: pa.Table, kept: pa.Table) -> pa.Table:
    """Return an empty table with the stage's columns: what it failed on has those that it was given."""
    try:
        return stage(rows.slice(0, 0)).kept
    except Exception:  # it needs none to fail
        return kept


def _count_errors(dropped: pa.Table) -> int:
    return pc.sum(pc.equal(dropped["reason"], FAILED)).as_py() or 0


def _stats(stage: Stage, rows: pa.Table, result: StageResult, seconds: float, keep_going: bool) -> StageStats:
    kept, dropped = result.kept, result.dropped
    errors = _count_errors(dropped)
    if errors and errors >= len(rows) and _count_videos(rows) >= _ALL_FAILED_VIDEOS and not keep_going:
        first = next(row for row in dropped.to_pylist() if row["reason"] == FAILED)
        raise StageBrokenError(
            f"stage {stage.name} failed on all {len(rows)} items of a unit, on {first['id']} with: {first['detail']}. "
            "What is finished is kept: run the same command again when it is mended, or with keep_going=true to drop "
            "such items"
        )
    return StageStats(
        stage.name, len(rows), len(kept), total_hours(rows), total_hours(kept), len(dropped), errors, seconds
    )


def _count_videos(rows: pa.Table) -> int:
    return pc.count_distinct(rows["video"]).as_py()


def run_batch(stage: Stage, batch: pa.Table) -> StageResult:
    """Run a batch through a stage; see `run_stage`."""
    try:
        return _watched(stage, batch)
    except (ImportError, EndpointError, AnswerCacheError, StageBrokenError):  # the same for every batch
        raise
    except Exception as error:
        if is_disk_full(error) or not len(batch):
            raise
        if _is_device_failure(error):
            raise DeviceError(
                f"the accelerator failed in stage {stage.name}: {' '.join(str(error).split())[:400]}. What is finished "
                "is kept: run the same command again"
            ) from error
        if len(batch) == 1:
            watchdog.watch().count(1, 0)
            return failed(stage, batch, f"{type(error).__name__}: {error}")
    half = len(batch) // 2
    parts = [run_batch(stage, batch.slice(0, half)), run_batch(stage, batch.slice(half))]
    return joined(stage, parts)


def _watched(stage: Stage, batch: pa.Table) -> StageResult:
    watch = watchdog.watch()
    watch.begin_batch(batch)
    try:
        result = stage(batch)
    finally:
        watch.end_batch()
    watch.count(len(batch), len(result.kept))
    return result


def joined(stage: Stage, parts: Sequence[StageResult]) -> StageResult:
    """Return the results of consecutive batches as one."""
    schemas = [part.kept.schema for part in parts if len(part.kept)] or [parts[0].kept.schema]
    kept = [part.kept for part in parts if len(part.kept)] or [parts[0].kept]
    if any(schema != schemas[0] for schema in schemas):
        raise ValueError(f"stage {stage.name} returns other columns for one batch than for another")
    return StageResult(pa.concat_tables(kept), pa.concat_tables([part.dropped for part in parts]))


def failed(stage: Stage, rows: pa.Table, detail: str) -> StageResult:
    """Return rows as dropped because the stage failed on them."""
    details = [" ".join(detail.split())[:500]] * len(rows)
    dropped = split(stage.name, rows, np.full(len(rows), FAILED, object), details=details).dropped
    return StageResult(rows.slice(0, 0), dropped)


def total_hours(rows: pa.Table) -> float:
    """Return how much video the rows are; unknown lengths count nothing."""
    return float(pc.sum(hours_of(rows)).as_py() or 0.0)


def _is_device_failure(error: BaseException) -> bool:
    """Return whether an error is of the accelerator itself, and not of a lack of memory for one item."""
    names = {cls.__name__ for cls in type(error).__mro__}  # torch may not be installed
    return "AcceleratorError" in names or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


class UnitFolder:
    """The finished units of a run: `NNNNNN/` with rows, dropped rows and statistics, written in one step.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def path(self, number: int) -> Path:
        """Returns the folder of a unit."""
        return self.folder / f"{number:06d}"

    def is_done(self, number: int) -> bool:
        """Returns whether a unit is finished."""
        return (self.path(number) / STATS_FILE).is_file()

    def write(self, unit: UnitState) -> None:
        """Writes a unit; a unit that is there already stays.

        Raises:
            OSError: if the disk is full; nothing of the unit is left behind.
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
        """Removes what a killed run left half written."""
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for marks in self.folder.glob(".*.attempts"):
            marks.unlink(missing_ok=True)
        watchdog.clear(self.folder)

    def remove(self, number: int) -> None:
        """Removes a finished unit, in one step."""
        gone = self.folder / f".{number:06d}.{os.getpid()}.partial"
        self.path(number).rename(gone)
        shutil.rmtree(gone)

    def numbers(self) -> list[int]:
        """Returns the numbers of the finished units, in order."""
        found = (path.parent.name for path in self.folder.glob(f"*/{STATS_FILE}"))
        return sorted(int(name) for name in found if name.isdigit())

    def rows(self) -> Iterator[pa.Table]:
        """Yields the rows of the finished units, in order."""
        for number in self.numbers():
            with self._readable(number):
                table = pq.read_table(self.path(number) / ROWS_FILE)
            yield table

    def ids(self, number: int) -> pa.ChunkedArray:
        """Returns the ids of a finished unit."""
        with self._readable(number):
            return pq.read_table(self.path(number) / ROWS_FILE, columns=["id"])["id"]

    def schemas(self) -> Iterator[pa.Schema]:
        """Yields the columns of the finished units that hold any row."""
        for number in self.numbers():
            with self._readable(number):
                file = pq.ParquetFile(self.path(number) / ROWS_FILE)
            if file.metadata.num_rows:
                yield file.schema_arrow

    def dropped(self) -> Iterator[pa.Table]:
        """Yields the dropped rows of the finished units, in order."""
        for number in self.numbers():
            with self._readable(number):
                table = pq.read_table(self.path(number) / DROPPED_FILE)
            yield table

    def stats(self, number: int) -> list[StageStats]:
        """Returns the statistics of a finished unit."""
        with self._readable(number):
            return [StageStats(**item) for item in json.loads((self.path(number) / STATS_FILE).read_text())]

    @contextmanager
    def _readable(self, number: int) -> Iterator[None]:
        """Says what to do where a unit's file is damaged or gone."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"a file of {self.path(number)} is damaged ({one_line(error)}): remove this folder and run the same "
                "command again, which makes it anew"
            ) from error


def total_stats(per_unit: Iterator[Sequence[StageStats]]) -> list[StageStats]:
    """Return the sum over units, stage by stage."""
    totals: dict[str, StageStats] = {}
    for stats in per_unit:
        for item in stats:
            totals[item.name] = totals[item.name] + item if item.name in totals else item
    return list(totals.values())
