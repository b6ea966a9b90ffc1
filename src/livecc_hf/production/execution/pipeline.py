"""The plan of a run: its stages in groups, and the functions by which a process runs a unit through a group."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from ...utils.text import one_line
from .. import watchdog
from ..columns import total_hours
from ..errors import StageBrokenError
from ..inputs.rows import STAGE as INPUT_STAGE
from ..inputs.videos import UnitRef, VideoInput
from ..stages.base import Stage, StageResult
from .stage_runs import drop_failed, finish_stage, join_results, run_batch, run_stage
from .unit_folder import UnitFolder
from .units import StageStats, UnitState
from .workers import Worker, WorkerDiedError, WorkerHangsError

# The unit as bytes for the next group; from the last group, the unit's number and statistics.
GroupResult = bytes | tuple[int, tuple[StageStats, ...]]

_LONE_ATTEMPTS = 2  # attempts at a single item
_OPENED: dict[str, Stage] = {}  # the stages that are open in this process


def check_order(stages: Sequence[Stage], source: VideoInput) -> None:
    """Check that each stage is given the kind of rows that it takes, videos or clips.

    Raises:
        ValueError: if a stage would be given the other kind.
    """
    kind, maker = ("clips" if source.holds_clips else "videos"), f"the input {source.path}"
    for stage in stages:
        if stage.takes not in (kind, "both"):
            way_out = (
                "put it before the stage that cuts clips, or run without it (--stages)"
                if kind == "clips"
                else "put it after a stage that cuts clips, such as pretrain_clips"
            )
            raise ValueError(f"stage {stage.name} takes {stage.takes}, but {maker} gives it {kind}: {way_out}")
        if stage.makes_clips:
            kind, maker = "clips", f"stage {stage.name}"


@dataclass(frozen=True)
class StageGroup:
    """Consecutive stages that run in one process: any number without a model, or a single stage with one."""

    stages: tuple[Stage, ...]

    @property
    def needs_gpu(self) -> bool:
        """Whether the group is a stage that uses an accelerator."""
        return self.stages[0].needs_gpu

    @property
    def name(self) -> str:
        """The stages' names, joined by `+`."""
        return "+".join(stage.name for stage in self.stages)


def group_stages(stages: Sequence[Stage]) -> tuple[StageGroup, ...]:
    """Group consecutive stages that share a process."""
    groups: list[list[Stage]] = []
    for stage in stages:
        if groups and not stage.needs_gpu and not groups[-1][0].needs_gpu:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return tuple(StageGroup(tuple(group)) for group in groups)


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run, shared with all of its processes; small and picklable.

    Attributes:
        source: the input.
        groups: the stages, in groups.
        folder: of the finished units.
        keep_going: drop items instead of stopping if a stage fails on every item of a unit.
        max_retries: retries of a whole unit after a process died while working on it.
        item_timeout_s: time limit of a stage for an item, to which four times the video's length is added; `None`: no
            limit.
    """

    source: VideoInput
    groups: tuple[StageGroup, ...]
    folder: UnitFolder
    keep_going: bool = False
    max_retries: int = 2
    item_timeout_s: float | None = None

    def start(self, ref: UnitRef) -> UnitState:
        """Read a unit from the input."""
        began = time.perf_counter()
        rows, dropped = self.source.read(ref)
        seconds = time.perf_counter() - began
        hours = total_hours(rows)
        stats = StageStats(INPUT_STAGE, ref.items, len(rows), hours, hours, len(dropped), 0, seconds)
        return UnitState(ref.number, rows, dropped, (stats,))


def run_group(plan: RunPlan, index: int, payload: UnitRef | bytes) -> GroupResult:
    """Run a unit through a group of stages; the last group writes the unit to the folder.

    If a stage hangs, this process exits, see `watchdog.has_hung`.

    Args:
        plan: of the run.
        index: of the group in `plan.groups`.
        payload: for the first group, the unit's reference; for the others, the result of the group before.

    Returns:
        The unit as bytes for the next group; from the last group, its number and statistics.

    Raises:
        StageBrokenError, ImportError, ValueError: if a stage cannot run at all.
        OSError: if the disk is full.
    """
    unit = plan.start(payload) if isinstance(payload, UnitRef) else UnitState.from_bytes(payload)
    with watchdog.UnitWatch(plan.folder.folder, unit.number, index, plan.item_timeout_s) as watch:
        for stage in plan.groups[index].stages:
            unit = run_stage(open_stage(stage, unit.rows), unit, plan.keep_going)
        return _pass_on(plan, index, unit, watch)


def run_group_isolated(plan: RunPlan, index: int, payload: UnitRef | bytes) -> GroupResult:
    """Like `run_group`, for a unit whose processes died or hung.

    Each stage runs in a process of its own. If that process dies, the batch is halved until the item at fault is alone,
    and this item is dropped with reason "error". If a stage hung, items are processed one by one from the start, since
    each batch with the item at fault would take the whole time limit.
    """
    unit = plan.start(payload) if isinstance(payload, UnitRef) else UnitState.from_bytes(payload)
    folder = plan.folder.folder
    is_hung = watchdog.has_hung(folder, unit.number, index)
    watch = watchdog.UnitWatch(folder, unit.number, index)
    for stage in plan.groups[index].stages:
        began = time.perf_counter()
        watch.begin_stage(stage.name, [asdict(item) for item in unit.stats], len(unit.rows))
        with Worker() as worker:
            result = _Isolated(worker, stage, plan.item_timeout_s, watch).run(unit.rows, 1 if is_hung else None)
        unit = finish_stage(stage, unit, result, time.perf_counter() - began, plan.keep_going)
    passed_on = _pass_on(plan, index, unit, watch)
    watchdog.forget_hung(folder, unit.number, index)
    return passed_on


def _pass_on(plan: RunPlan, index: int, unit: UnitState, watch: watchdog.UnitWatch) -> GroupResult:
    if index < len(plan.groups) - 1:
        watch.write(now=True)  # the unit may wait long for the next group
        return unit.to_bytes()
    plan.folder.write(unit)
    watch.remove()
    return unit.number, unit.stats


@dataclass(frozen=True)
class _Isolated:
    """Runs a stage in a worker process that may die or hang."""

    worker: Worker
    stage: Stage
    item_timeout_s: float | None
    watch: watchdog.UnitWatch

    def run(self, rows: pa.Table, step: int | None = None) -> StageResult:
        step = step or self.stage.batch_rows
        return join_results(self.stage, [self._batch(rows.slice(i, step)) for i in range(0, max(len(rows), 1), step)])

    def _batch(self, batch: pa.Table) -> StageResult:
        limit_s = None if self.item_timeout_s is None else watchdog.time_limit_s(batch, self.item_timeout_s)
        # A single item is tried twice, since its process may have died for another reason, such as a lack of memory.
        for _ in range(_LONE_ATTEMPTS if len(batch) <= 1 else 1):
            try:
                rows = batch.combine_chunks()
                self.worker.run(_open_here, self.stage, rows)  # no time limit, since a model may be downloaded
                result = self.worker.run(_run_here, self.stage, rows, limit_s=limit_s)
                self.watch.count(len(batch), len(result.kept))
                return result
            except WorkerDiedError as error:
                death = error
                if isinstance(error, WorkerHangsError):
                    break
        if len(batch) <= 1:
            self.watch.count(len(batch), 0)
            return drop_failed(self.stage, batch, str(death))
        return self.run(batch, 1 if isinstance(death, WorkerHangsError) else -(-len(batch) // 2))


def _open_here(stage: Stage, rows: pa.Table) -> None:
    open_stage(stage, rows)


def _run_here(stage: Stage, batch: pa.Table) -> StageResult:
    return run_batch(open_stage(stage, batch), batch)


def open_stage(stage: Stage, rows: pa.Table) -> Stage:
    """Return this process's copy of a stage, opened if the rows need that."""
    key = f"{type(stage).__module__}.{stage!r}"
    if key not in _OPENED:
        if not stage.needs_open(rows):
            return stage
        try:
            stage.open()
        except (ValueError, ImportError, OSError, RuntimeError):
            raise
        except (Exception, SystemExit) as error:  # of a stage of the user's own
            raise StageBrokenError(
                f"stage {stage.name} cannot be opened: {type(error).__name__}: {one_line(error)}"
            ) from error
        _OPENED[key] = stage
    return _OPENED[key]
