"""Runs a stage over a unit. If the stage raises, the batch is halved to find and drop the item at fault."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...endpoints.answer_cache import AnswerCacheError
from ...endpoints.chat import EndpointError
from ...utils.device_errors import is_accelerator_failure
from ...utils.disk import is_disk_full
from .. import watchdog
from ..columns import total_hours
from ..errors import DeviceError, StageBrokenError
from ..schemas import CLIP_SCHEMA, DROPPED_SCHEMA, SUBTITLES
from ..stages.base import Stage, StageResult, split
from .units import StageStats, UnitState

FAILED = "error"  # the reason of rows on which a stage failed
# If a stage fails on all items of at least this many videos, the stage is at fault. Videos count, not clips, since one
# broken video may give many clips.
_ALL_FAILED_VIDEOS = 8


def run_stage(stage: Stage, unit: UnitState, keep_going: bool = False) -> UnitState:
    """Run a unit through a stage, in batches of `stage.batch_rows` rows.

    A batch on which the stage raises is halved until the item at fault is alone; that one is dropped with the error.

    Args:
        stage: an opened stage.
        unit: whose rows are processed.
        keep_going: drop the rows instead of raising if the stage fails on every row.

    Raises:
        StageBrokenError: if the stage fails on every row of a unit with eight videos or more, or the accelerator fails.
        ImportError, EndpointError: if a package is missing, or the endpoint of a model is down.
        OSError: if the disk is full, or the cache of answers cannot be written.
    """
    began = time.perf_counter()
    rows = unit.rows
    watchdog.watch().begin_stage(stage.name, [asdict(item) for item in unit.stats], len(rows))
    # An empty unit is passed to the stage too, since the stage may change its columns.
    parts = [run_batch(stage, rows.slice(i, stage.batch_rows)) for i in range(0, max(len(rows), 1), stage.batch_rows)]
    return finish_stage(stage, unit, join_results(stage, parts), time.perf_counter() - began, keep_going)


def finish_stage(stage: Stage, unit: UnitState, result: StageResult, seconds: float, keep_going: bool) -> UnitState:
    """Return the unit after a stage, with the stage's statistics.

    Raises:
        StageBrokenError: see `run_stage`.
    """
    kept = result.kept.combine_chunks()
    if not len(kept) and _count_errors(result.dropped):
        kept = _empty_result(stage, unit.rows, kept)
    result = StageResult(kept, result.dropped)
    return unit.after(result, _stats(stage, unit.rows, result, seconds, keep_going))


def _empty_result(stage: Stage, rows: pa.Table, kept: pa.Table) -> pa.Table:
    """Return an empty table with the stage's output columns; `kept`, of failed rows, has its input columns."""
    try:
        return stage(rows.slice(0, 0)).kept
    except Exception:  # a broken stage may fail even without rows
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
            "Finished units are kept: fix the cause and run the same command again, or add keep_going=true to drop the "
            "items"
        )
    return StageStats(
        stage.name, len(rows), len(kept), total_hours(rows), total_hours(kept), len(dropped), errors, seconds
    )


def _count_videos(rows: pa.Table) -> int:
    return pc.count_distinct(rows["video"]).as_py()


def run_batch(stage: Stage, batch: pa.Table) -> StageResult:
    """Run a batch through a stage; see `run_stage`."""
    try:
        return _run_watched(stage, batch)
    except (ImportError, EndpointError, AnswerCacheError, StageBrokenError):  # would be the same for every batch
        raise
    except (Exception, SystemExit) as error:  # a library that exits must not end the run in silence
        if is_disk_full(error) or not len(batch):
            raise
        if is_accelerator_failure(error):
            raise DeviceError(
                f"the accelerator failed in stage {stage.name}: {' '.join(str(error).split())[:400]}. Finished units "
                "are kept: run the same command again"
            ) from error
        if len(batch) == 1:
            watchdog.watch().count(1, 0)
            return drop_failed(stage, batch, f"{type(error).__name__}: {error}")
    half = len(batch) // 2
    parts = [run_batch(stage, batch.slice(0, half)), run_batch(stage, batch.slice(half))]
    return join_results(stage, parts)


def _run_watched(stage: Stage, batch: pa.Table) -> StageResult:
    watch = watchdog.watch()
    watch.begin_batch(batch)
    try:
        result = stage(batch)
    finally:
        watch.end_batch()
    _check_result(stage, batch, result)
    watch.count(len(batch), len(result.kept))
    return result


def _check_result(stage: Stage, batch: pa.Table, result: StageResult) -> None:
    """Raise a StageBrokenError if a stage returns something else than it must, or loses rows or columns."""
    if not isinstance(result, StageResult):
        raise StageBrokenError(
            f"stage {stage.name} returned {type(result).__name__}: expected StageResult(kept, dropped) of two tables"
        )
    before = CLIP_SCHEMA.names if stage.makes_clips else batch.column_names
    lost = [name for name in before if name not in result.kept.column_names and name != SUBTITLES]
    if lost:
        raise StageBrokenError(
            f"stage {stage.name} returned rows without {', '.join(lost)}: expected all columns of its input, or of "
            "CLIP_SCHEMA if it cuts clips"
        )
    if result.dropped.column_names != DROPPED_SCHEMA.names:
        raise StageBrokenError(
            f"stage {stage.name} returned dropped rows with the columns {', '.join(result.dropped.column_names)}: "
            "expected those of DROPPED_SCHEMA, as the function split makes them"
        )
    n_missing = len(batch) - len(result.kept) - len(result.dropped)
    if n_missing > 0 and not stage.makes_clips:
        raise StageBrokenError(
            f"stage {stage.name} returned {n_missing} of {len(batch)} rows neither as kept nor as dropped: expected "
            "each in one of them"
        )


def join_results(stage: Stage, parts: Sequence[StageResult]) -> StageResult:
    """Concatenate the results of consecutive batches.

    Raises:
        ValueError: if their columns differ.
    """
    schemas = [part.kept.schema for part in parts if len(part.kept)] or [parts[0].kept.schema]
    kept = [part.kept for part in parts if len(part.kept)] or [parts[0].kept]
    if any(schema != schemas[0] for schema in schemas):
        raise ValueError(
            f"stage {stage.name} returns different columns for different batches: expected the same names and types"
        )
    return StageResult(pa.concat_tables(kept), pa.concat_tables([part.dropped for part in parts]))


def drop_failed(stage: Stage, rows: pa.Table, detail: str) -> StageResult:
    """Return a result that drops all rows with reason "error"."""
    details = [" ".join(detail.split())[:500]] * len(rows)
    dropped = split(stage.name, rows, np.full(len(rows), FAILED, object), details=details).dropped
    return StageResult(rows.slice(0, 0), dropped)
