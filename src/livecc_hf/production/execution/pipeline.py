"""The stages of a run, in order, and how a unit goes through them in one process."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from .. import watchdog
from ..inputs.rows import STAGE as INPUT_STAGE
from ..inputs.videos import UnitRef, VideoInput
from ..stages.base import Stage, StageResult
from .units import StageStats, UnitFolder, UnitState, failed, finish_stage, joined, run_batch, run_stage, total_hours
from .workers import Worker, WorkerDiedError, WorkerHangsError

_LONE_ATTEMPTS = 2  # at an item that is alone in its process
_OPENED: dict[str, Stage] = {}  # the stages whose models are loaded in this process


# Where each stage is, so that a run imports no others: some come with a model's code.
STAGES = {
    "probe": "metadata:Probe",
    "metadata": "metadata:Metadata",
    "captions": "captions:Captions",
    "asr": "asr.stage:Asr",
    "language": "language:Language",
    "category": "category:Category",
    "pretrain_clips": "clips:PretrainClips",
    "sft_clips": "clips:SftClips",
    "text_loss": "text_loss:TextLoss",
    "talking_head": "talking_head:TalkingHead",
    "active_speaker": "active_speaker.stage:ActiveSpeaker",
    "prompt": "prompt:Prompt",
}


def find_stage(name: str) -> type[Stage]:
    """Return a stage by name, or your own as `package.module:Class`.

    Raises:
        ValueError: if there is no such stage.
    """
    if ":" not in name and name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(STAGES)}"
        raise ValueError(f"stage {name!r} is unknown: {hint}, or your own as package.module:Class")
    place = name if ":" in name else f"livecc_hf.production.stages.{STAGES[name]}"
    module_name, _, class_name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"stage {name!r} cannot be imported: {error}; expected package.module:Class of a module on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ValueError(f"stage {name!r} is no subclass of livecc_hf.production.stages.base.Stage")
    return found


def make_stage(name: str, thresholds: Mapping[str, Any] | None = None) -> Stage:
    """Make a stage from its name and thresholds.

    Raises:
        ValueError: if a threshold is unknown or does not fit.
    """
    cls = find_stage(name)
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}
    values = {}
    for key, value in (thresholds or {}).items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            known = f"did you mean {near[0]}?" if near else f"it has: {', '.join(fields) or 'no thresholds'}"
            raise ValueError(f"stage {cls.name} has no threshold {key!r}: {known}")
        values[key] = fitted(value, fields[key], f"{cls.name}.{key}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"stage {cls.name}: {error}") from error


def fitted(value: Any, field: dataclasses.Field, name: str) -> Any:
    """Return a value from YAML or the command line in the field's type."""
    kind = str(field.type)
    if isinstance(value, list) and "tuple" in kind:
        return tuple(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind.startswith("str") and not isinstance(value, str) and not (value is None and "None" in kind):
        raise ValueError(f"{name} is {value!r}: expected text; put it into quotes")  # YAML takes no for false
    if "str" in kind or "Any" in kind:
        return value
    if "float" in kind and isinstance(value, str):  # YAML takes 1e-3 for text
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{name} is {value!r}: expected a number") from None
    wanted = {
        "float": ("a number", is_number),
        "int": ("a whole number", is_number and isinstance(value, int)),
        "bool": ("true or false", isinstance(value, bool)),
        "None": ("null", value is None),
    }
    known = [entry for word, entry in wanted.items() if word in kind]
    if known and not any(fits for _, fits in known):
        raise ValueError(f"{name} is {value!r}: expected {' or '.join(text for text, _ in known)}")
    return value


def check_order(stages: Sequence[Stage], source: VideoInput) -> None:
    """Check that each stage gets what it takes, videos or clips.

    Raises:
        ValueError: if one does not.
    """
    kind, maker = ("clips" if source.holds_clips else "videos"), f"the input {source.path}"
    for stage in stages:
        if stage.takes not in (kind, "both"):
            way_out = (
                "put it before the stage that cuts clips, or leave it out with --stages"
                if kind == "clips"
                else "put it after a stage that cuts clips, such as pretrain_clips"
            )
            raise ValueError(f"stage {stage.name} takes {stage.takes}, and {maker} gives it {kind}: {way_out}")
        if stage.makes_clips:
            kind, maker = "clips", f"stage {stage.name}"


@dataclass(frozen=True)
class Segment:
    """Consecutive stages that run in one process: any number that need no accelerator, or one that does."""

    stages: tuple[Stage, ...]

    @property
    def needs_gpu(self) -> bool:
        """Whether the one stage is worth an accelerator."""
        return self.stages[0].needs_gpu

    @property
    def name(self) -> str:
        """The stages' names."""
        return "+".join(stage.name for stage in self.stages)


def make_segments(stages: Sequence[Stage]) -> tuple[Segment, ...]:
    """Group stages by the processes they run in."""
    groups: list[list[Stage]] = []
    for stage in stages:
        if groups and not stage.needs_gpu and not groups[-1][0].needs_gpu:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return tuple(Segment(tuple(group)) for group in groups)


@dataclass(frozen=True)
class Work:
    """What every process of a run knows; small and picklable.

    Attributes:
        source: the input.
        segments: the stages.
        folder: where finished units go.
        keep_going: go on if a stage fails on every item of a unit.
        max_retries: how often a unit is given to another process after one died over it.
        item_timeout_s: how long a stage may be silent over an item, besides four times its length; `None`: for ever.
    """

    source: VideoInput
    segments: tuple[Segment, ...]
    folder: UnitFolder
    keep_going: bool = False
    max_retries: int = 2
    item_timeout_s: float | None = None

    def start(self, ref: UnitRef) -> UnitState:
        """Reads a unit."""
        began = time.perf_counter()
        rows, dropped = self.source.read(ref)
        seconds = time.perf_counter() - began
        hours = total_hours(rows)
        stats = StageStats(INPUT_STAGE, ref.items, len(rows), hours, hours, len(dropped), 0, seconds)
        return UnitState(ref.number, rows, dropped, (stats,))


def run_segment(work: Work, index: int, payload: UnitRef | bytes) -> bytes | tuple[int, tuple[StageStats, ...]]:
    """Run a unit through a segment; the last one writes it.

    Args:
        work: the run.
        index: of the segment.
        payload: the unit's reference for the first segment, then what the one before returned.

    Returns:
        The unit for the next segment; after the last its number and statistics. A stage that is silent for too long
        ends this process instead, see `watchdog.has_hung`.

    Raises:
        StageBrokenError, ImportError, ValueError: if a stage cannot work at all.
        OSError: if the disk is full.
    """
    unit = work.start(payload) if isinstance(payload, UnitRef) else UnitState.from_bytes(payload)
    with watchdog.UnitWatch(work.folder.folder, unit.number, index, work.item_timeout_s) as watch:
        for stage in work.segments[index].stages:
            unit = run_stage(opened(stage, unit.rows), unit, work.keep_going)
        return _passed_on(work, index, unit, watch)


def run_segment_isolated(
    work: Work, index: int, payload: UnitRef | bytes
) -> bytes | tuple[int, tuple[StageStats, ...]]:
    """Like `run_segment`, for a unit that kills the processes that work on it, or on which they hang.

    Each stage runs in a process of its own; a batch over which that dies is halved, until the item that kills it is
    alone and is dropped with reason "error". Where a stage hung, each item is alone from the start: a batch with it
    costs the whole time limit.
    """
    unit = work.start(payload) if isinstance(payload, UnitRef) else UnitState.from_bytes(payload)
    folder = work.folder.folder
    is_hung = watchdog.has_hung(folder, unit.number, index)
    watch = watchdog.UnitWatch(folder, unit.number, index)
    for stage in work.segments[index].stages:
        began = time.perf_counter()
        watch.begin_stage(stage.name, [asdict(item) for item in unit.stats], len(unit.rows))
        with Worker() as worker:
            result = _Isolated(worker, stage, work.item_timeout_s, watch).run(unit.rows, 1 if is_hung else None)
        unit = finish_stage(stage, unit, result, time.perf_counter() - began, work.keep_going)
    passed_on = _passed_on(work, index, unit, watch)
    watchdog.forget_hung(folder, unit.number, index)
    return passed_on


def _passed_on(
    work: Work, index: int, unit: UnitState, watch: watchdog.UnitWatch
) -> bytes | tuple[int, tuple[StageStats, ...]]:
    if index < len(work.segments) - 1:
        watch.write(now=True)  # it may wait for the next
        return unit.to_bytes()
    work.folder.write(unit)
    watch.remove()
    return unit.number, unit.stats


@dataclass(frozen=True)
class _Isolated:
    """Runs a stage in a process that may die or hang."""

    worker: Worker
    stage: Stage
    item_timeout_s: float | None
    watch: watchdog.UnitWatch

    def run(self, rows: pa.Table, step: int | None = None) -> StageResult:
        step = step or self.stage.batch_rows
        return joined(self.stage, [self._batch(rows.slice(i, step)) for i in range(0, max(len(rows), 1), step)])

    def _batch(self, batch: pa.Table) -> StageResult:
        limit_s = None if self.item_timeout_s is None else watchdog.time_limit_s(batch, self.item_timeout_s)
        # A lone item gets a second chance: its process may have died of something else, such as a lack of memory.
        for _ in range(_LONE_ATTEMPTS if len(batch) <= 1 else 1):
            try:
                rows = batch.combine_chunks()
                self.worker.run(_open, self.stage, rows)  # which has no limit: models are loaded, even fetched
                result = self.worker.run(_run_opened, self.stage, rows, limit_s=limit_s)
                self.watch.count(len(batch), len(result.kept))
                return result
            except WorkerDiedError as error:
                death = error
                if isinstance(error, WorkerHangsError):
                    break
        if len(batch) <= 1:
            self.watch.count(len(batch), 0)
            return failed(self.stage, batch, str(death))
        return self.run(batch, 1 if isinstance(death, WorkerHangsError) else -(-len(batch) // 2))


def _open(stage: Stage, rows: pa.Table) -> None:
    opened(stage, rows)


def _run_opened(stage: Stage, batch: pa.Table) -> StageResult:
    return run_batch(opened(stage, batch), batch)


def opened(stage: Stage, rows: pa.Table) -> Stage:
    """Return this process's copy of a stage, with its models loaded if any of the rows needs them."""
    key = f"{type(stage).__module__}.{stage!r}"
    if key not in _OPENED:
        if not stage.needs_open(rows):
            return stage
        stage.open()
        _OPENED[key] = stage
    return _OPENED[key]
