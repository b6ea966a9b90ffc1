"""A whole run: an engine runs units through the stages; then the dataset, dropped rows and report are written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..utils.disk import DiskFullError, is_disk_full
from ..utils.extras import require_extra
from ..utils.one_run import only_run
from ..utils.output_folder import make_output_folder
from ..utils.reports import Say, say_to_stderr
from ..utils.text import counted
from .assembly import assemble
from .execution.local import LocalEngine
from .execution.pipeline import RunPlan, check_order, group_stages
from .execution.ray import RayEngine
from .execution.unit_folder import UnitFolder
from .execution.units import StageStats
from .inputs.videos import UnitRef, VideoInput, open_input
from .options import BuildOptions
from .progress import Progress, funnel_table
from .run_folder import DATASET, FUNNEL, UNITS, claim_folder, is_output
from .stages.base import Stage
from .watchdog import read_progress


class Engine(Protocol):
    """Interface of an engine: runs the units of a plan through its stages, as `LocalEngine` does."""

    def run(self, units: Iterator[UnitRef], on_unit: Callable[[Sequence[StageStats]], None]) -> None:
        """Run units, and call `on_unit` with the statistics of each finished unit."""


MakeEngine = Callable[[RunPlan], Engine]


@dataclass(frozen=True)
class BuildResult:
    """The result of a run.

    Attributes:
        out: the run's folder.
        stats: statistics of each stage, summed over all units.
        n_clips: number of clips in the dataset; if no stage makes clips, the number of videos kept.
        dataset: the dataset folder; `None` if no stage makes clips.
    """

    out: Path
    stats: list[StageStats]
    n_clips: int
    dataset: Path | None


def build(options: BuildOptions, say: Say = say_to_stderr, make_engine: MakeEngine | None = None) -> BuildResult:
    """Make a dataset, or continue a run that was interrupted in the same folder.

    Args:
        options: of the run.
        say: called with each line of progress.
        make_engine: returns the engine for a plan; default: the engine that the options name.

    Raises:
        FileNotFoundError: if the input does not exist.
        ValueError: if an option is invalid, the folder belongs to another run, a stage cannot run, or no item is kept.
        ImportError: if a package is missing.
        DiskFullError: if the disk is full. Finished units are kept, and the same call continues the run.
    """
    stages = options.make_stages()
    _check_early(options, stages)
    source = open_input(
        options.input, options.unit_videos, options.limit, language=options.language, root=options.media_root
    )
    out = Path(options.out).expanduser().absolute()
    _check_places(source, out)
    check_order(stages, source)
    try:
        make_output_folder(out)
        with only_run(out, "out"):
            claim_folder(out, options, source, stages)
            for line in (*_describe_engine(options, stages), *source.describe_left_out()):
                say(line)
            return _build(options, source, stages, out, say, make_engine)
    except OSError as error:
        if not is_disk_full(error):
            raise
        done = len(UnitFolder(out / UNITS).numbers())
        kept = counted(done, "finished unit")
        raise DiskFullError(
            f"the disk of {error.filename or out} is full: {kept} kept; free some space and run the same command again"
        ) from error


def _check_early(options: BuildOptions, stages: list[Stage]) -> None:
    """Raise errors now that would otherwise show only when the dataset and the report are written."""
    options.folder_options()
    options.about(stages, {})
    require_extra("data", "the report", "matplotlib")


def _check_places(source: VideoInput, out: Path) -> None:
    """Raise a ValueError if the input has no videos, or if it and `out` lie in each other.

    Results inside the input would be read as input next time; an input among the results would be overwritten or, by
    `restart`, deleted.
    """
    if is_output(out, source.path):
        raise ValueError(
            f"the input {source.path} is a result of the run in {out}, which this run would replace: choose another out"
        )
    if source.path.is_dir() and out.resolve().is_relative_to(source.path.resolve()):
        raise ValueError(
            f"out {out} is inside the input {source.path}, so its videos would be read as input: choose a "
            f"folder next to it, such as {source.path.resolve()}-dataset"
        )
    if next(source.units(), None) is None:
        raise ValueError(
            f"{source.path} holds no video: expected a manifest with a line or row for each video, or a folder with "
            "files such as NAME.mp4, captions such as NAME.en.vtt and metadata such as NAME.info.json"
        )


def _build(
    options: BuildOptions, source: VideoInput, stages: list[Stage], out: Path, say: Say, make_engine: MakeEngine | None
) -> BuildResult:
    folder = UnitFolder(out / UNITS)
    folder.folder.mkdir(exist_ok=True)
    folder.remove_partial()
    timeout_s = options.item_timeout_s or None
    plan = RunPlan(source, group_stages(stages), folder, options.keep_going, options.max_retries, timeout_s)
    done = set(folder.numbers())
    if done:
        say(f"continuing after {counted(len(done), 'finished unit')}")
    progress = Progress(say, in_flight=lambda: read_progress(folder.folder))
    counting = threading.Thread(target=_count, args=(source, len(done), progress), daemon=True)
    counting.start()
    pending = _forget_results(out, (unit for unit in source.units() if unit.number not in done))
    with progress.running():
        engine = _make_engine(options, plan) if make_engine is None else make_engine(plan)
        engine.run(pending, progress.add)
    saved = assemble(options, stages, out, folder, say)
    stats = [StageStats(**item) for item in saved["stages"]]
    say(funnel_table(stats))
    if not saved["clips"]:
        given = counted(stats[0].items_in, "clip" if source.holds_clips else "video")
        raise ValueError(f"none of {given} was kept: {out / 'report.html'} shows why")
    dataset = out / DATASET if (out / DATASET).is_dir() else None
    return BuildResult(out, stats, saved["clips"], dataset)


def _forget_results(out: Path, units: Iterator[UnitRef]) -> Iterator[UnitRef]:
    """Yield units to process; before the first, remove the record by which finished results are taken as up to date.

    A unit that is made again, as after a higher limit, has the number of the old one.
    """
    for unit in units:
        (out / FUNNEL).unlink(missing_ok=True)
        yield unit


def _describe_engine(options: BuildOptions, stages: Sequence[Stage]) -> Iterator[str]:
    """Yield lines on what the environment or the options name, and the run does not use."""
    address = os.environ.get("RAY_ADDRESS")
    if address and options.engine != "ray":
        yield f"$RAY_ADDRESS is {address}, which engine={options.engine} does not use: engine=ray runs on that cluster"
    if options.gpus is not None and not any(stage.needs_gpu for stage in stages):
        yield f"gpus={options.gpus} has no effect: no stage of this run has a model"
    if options.workers is not None and all(stage.needs_gpu for stage in stages):
        yield f"workers={options.workers} has no effect: each stage of this run has a model; gpus=N sets its processes"


def _make_engine(options: BuildOptions, plan: RunPlan) -> Engine:
    if options.engine == "ray":
        return RayEngine(plan, options.ray_address, options.workers, options.gpus)
    return LocalEngine(plan, options.workers, options.gpus)


def _count(source: VideoInput, done: int, progress: Progress) -> None:
    """Set the number of units to process. Runs in a thread, since reading a long manifest takes a while."""
    progress.total = max(sum(1 for _ in source.units()) - done, 0)
