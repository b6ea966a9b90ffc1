"""A whole run: units through the stages on an engine, then the dataset folder, the dropped rows and the report."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from livecc_hf import __version__

from .build_options import BuildOptions, stage_values
from .engine_local import LocalEngine
from .input_rows import STAGE as INPUT_STAGE
from .input_rows import SUBTITLES
from .inputs import UnitRef, VideoInput, open_input
from .pipeline import Work, make_segments
from .progress import Progress, Say, funnel_table, say_to_stderr
from .records import CLIP_SCHEMA, DROPPED_SCHEMA, VIDEO_SCHEMA
from .stage import Stage, split
from .units import StageStats, UnitFolder, is_disk_full, total_stats, write_atomically

UNITS, DATASET, VIDEOS, DROPPED, FUNNEL = "units", "dataset", "videos.parquet", "dropped.parquet", "funnel.json"
CONFIG = "build.json"
_OUTPUTS = (UNITS, DATASET, VIDEOS, DROPPED, FUNNEL, CONFIG, "report.html", "report.png")


class DiskFullError(OSError):
    """Nothing more can be written; what is finished is kept."""


@dataclass(frozen=True)
class BuildResult:
    """What a run made.

    Attributes:
        out: its folder.
        stats: of each stage, over all units.
        n_clips: clips of the dataset, or videos where no stage made clips.
        dataset: the dataset folder; `None` where no stage made clips.
    """

    out: Path
    stats: list[StageStats]
    n_clips: int
    dataset: Path | None


def build(options: BuildOptions, say: Say = say_to_stderr) -> BuildResult:
    """Make a dataset; in a folder where a run was interrupted, go on with it.

    Args:
        options: what to do.
        say: takes lines of progress.

    Raises:
        FileNotFoundError: if the input does not exist.
        ValueError: if an option does not fit, the folder belongs to another run, a stage cannot work, or nothing is
            kept.
        ImportError: if a package is missing.
        DiskFullError: if the disk is full. What is finished is kept; the same command goes on.
    """
    from filelock import FileLock, Timeout

    stages = options.make_stages()
    _check_early(options, stages)
    source = open_input(
        options.input, options.unit_videos, options.limit, language=options.language, root=options.media_root
    )
    out = Path(options.out).expanduser().absolute()
    _check_places(source, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock", timeout=0):
            _claim(out, options, source, stages)
            return _build(options, source, stages, out, say)
    except Timeout:
        raise ValueError(f"another run is working in {out}: wait for it, or choose another out") from None
    except OSError as error:
        if not is_disk_full(error):
            raise
        done = len(UnitFolder(out / UNITS).numbers())
        raise DiskFullError(
            f"the disk of {error.filename or out} is full: {done} finished units are kept; free some space and run the "
            "same command again"
        ) from error


def _check_early(options: BuildOptions, stages: list[Stage]) -> None:
    """Find now what would stop the run at its end, when the dataset is written."""
    options.folder_options()
    options.about(stages, {})
    if find_spec("matplotlib") is None:
        raise ImportError("the report needs matplotlib: pip install 'livecc-hf[data]'")


def _check_places(source: VideoInput, out: Path) -> None:
    """Refuse an input without a video, and an output that would become input when the run is started again."""
    if source.path.is_dir() and out.resolve().is_relative_to(source.path.resolve()):
        raise ValueError(
            f"out {out} is inside the input {source.path}, where its videos would be taken for more input: choose a "
            f"folder beside it, such as {source.path.resolve()}-dataset"
        )
    if next(source.units(), None) is None:
        raise ValueError(
            f"{source.path} holds no video: expected a line or row for each one, or a folder with files such as "
            "NAME.mp4, captions such as NAME.en.vtt and metadata NAME.info.json"
        )


def _claim(out: Path, options: BuildOptions, source: VideoInput, stages: list[Stage]) -> None:
    """Check that what is in the folder is of this run, and write down whose it is."""
    settings: dict[str, Any] = {
        "input": source.fingerprint(),
        "limit": options.limit,
        "unit_videos": options.unit_videos,
        "language": options.language,
        "media_root": options.media_root,
    }
    for number, stage in enumerate(stages):
        settings[f"stage {number + 1}"] = stage.name
        settings |= {f"{stage.name}.{key}": value for key, value in stage_values(stage).items()}
    settings = _plain(settings)
    file = out / CONFIG
    if options.restart:
        _clear(out)
    if file.is_file():
        there = json.loads(file.read_text())["settings"]
        changed = [key for key in {**there, **settings} if there.get(key) != settings.get(key)]
        if changed:
            lines = "; ".join(f"{key}: {there.get(key)!r} there, {settings.get(key)!r} now" for key in changed[:4])
            raise ValueError(
                f"{out} holds a run with other settings ({lines}): choose another out, or --restart to throw it away"
            )
        return
    if any((out / name).exists() for name in _OUTPUTS):
        raise ValueError(f"{out} holds files that no run wrote down in {CONFIG}: choose another out")
    write_atomically(file, {"version": __version__, "settings": settings})


def _clear(out: Path) -> None:
    """Remove a run's files, and no others."""
    if not (out / CONFIG).is_file():
        return
    for name in _OUTPUTS:  # the settings go last: a kill between leaves a folder that can be cleared again
        path = out / name
        if name != CONFIG:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (out / CONFIG).unlink()


def _build(options: BuildOptions, source: VideoInput, stages: list[Stage], out: Path, say: Say) -> BuildResult:
    folder = UnitFolder(out / UNITS)
    folder.folder.mkdir(exist_ok=True)
    folder.remove_partial()
    work = Work(source, make_segments(stages), folder, options.keep_going, options.max_retries)
    done = set(folder.numbers())
    if done:
        say(f"{len(done):,} units are finished: going on with the others")
    progress = Progress(say)
    counting = threading.Thread(target=_count, args=(source, len(done), progress), daemon=True)
    counting.start()
    pending = (unit for unit in source.units() if unit.number not in done)
    _run_engine(options, work, pending, progress)
    if progress.done or _dataset_changed(options, out):
        (out / FUNNEL).unlink(missing_ok=True)
    if not (out / FUNNEL).is_file():
        _assemble(options, stages, out, folder, say)
    saved = json.loads((out / FUNNEL).read_text())
    stats = [StageStats(**item) for item in saved["stages"]]
    say(funnel_table(stats))
    if not saved["clips"]:
        raise ValueError(f"nothing was kept of {stats[0].items_in:,} videos: {out / 'report.html'} says why")
    dataset = out / DATASET if (out / DATASET).is_dir() else None
    return BuildResult(out, stats, saved["clips"], dataset)


def _dataset_changed(options: BuildOptions, out: Path) -> bool:
    """Return whether the dataset was written with other options: it is written anew, and no stage runs again."""
    file = out / FUNNEL
    return file.is_file() and json.loads(file.read_text()).get("dataset") != _plain(options.dataset)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _run_engine(options: BuildOptions, work: Work, pending: Iterator[UnitRef], progress: Progress) -> None:
    if options.engine == "ray":
        from .engine_ray import RayEngine

        engine = RayEngine(work, options.ray_address, options.workers, options.gpus)
    else:
        engine = LocalEngine(work, options.workers, options.gpus)
    engine.run(pending, progress.add)


def _count(source: VideoInput, done: int, progress: Progress) -> None:
    """Find how many units are left, beside the work: a long manifest takes a while to read."""
    progress.total = max(sum(1 for _ in source.units()) - done, 0)


def _assemble(options: BuildOptions, stages: list[Stage], out: Path, folder: UnitFolder, say: Say) -> None:
    """Make the results of all units one dataset, with its report."""
    from .report import write_report

    say("writing the dataset")
    stats = total_stats(folder.stats(number) for number in folder.numbers())
    repeats = _Repeats(folder)
    extra = [DROPPED_SCHEMA.empty_table()]
    n_rows = stats[-1].items_out if stats else 0
    names = next((rows.schema.names for rows in folder.rows() if len(rows)), [])
    if n_rows and {"start_s", "end_s"} <= set(names):
        from .dataset_folder import write_dataset_folder

        if others := [name for name in names if name not in CLIP_SCHEMA.names]:
            say(f"columns that a dataset has no place for stay in {out / UNITS}: {', '.join(others)}")
        funnel = {item.name: _counts(item) for item in stats}
        written = write_dataset_folder(
            out / DATASET,
            map(_as_clips, repeats.without(folder.rows())),
            options.about(stages, funnel),
            options.folder_options(),
        )
        extra.append(written.dropped)
        n_rows = written.summary.n_clips
    elif n_rows:
        schema = next((rows.schema for rows in folder.rows() if SUBTITLES in rows.column_names), VIDEO_SCHEMA)
        n_rows = _write_tables(out / VIDEOS, repeats.without(folder.rows()), schema)
    extra += repeats.dropped
    _write_tables(out / DROPPED, _chain(folder.dropped(), extra), DROPPED_SCHEMA)
    write_report(out, stats, stages, repeats.without(folder.rows()), pq.ParquetFile(out / DROPPED))
    saved = {"clips": n_rows, "dataset": _plain(options.dataset), "stages": [asdict(item) for item in stats]}
    write_atomically(out / FUNNEL, saved)


def _counts(item: StageStats) -> dict[str, float | None]:
    return {
        "items_in": item.items_in,
        "items_out": item.items_out,
        "hours_in": item.hours_in or None,
        "hours_out": item.hours_out or None,
    }


def _as_clips(rows: pa.Table) -> pa.Table:
    """Return rows in `CLIP_SCHEMA`, without columns that stages of one's own appended."""
    lost = [name for name in CLIP_SCHEMA.names if name not in rows.column_names]
    if lost:
        raise ValueError(f"clips have no {', '.join(lost)}: a stage must keep the columns that it is given")
    return rows.select(CLIP_SCHEMA.names).cast(CLIP_SCHEMA)


def _chain(first: Iterable[pa.Table], second: Iterable[pa.Table]) -> Iterator[pa.Table]:
    yield from first
    yield from second


def _write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write tables as one Parquet file, there whole or not at all."""
    partial, rows = path.with_name(f".{path.name}.{os.getpid()}.partial"), 0
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for table in tables:
                if not len(table):
                    continue
                # Of videos, some units have captions inline.
                whole = pa.concat_tables([schema.empty_table(), table], promote_options="default")
                writer.write_table(whole.select(schema.names).cast(schema))
                rows += len(table)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return rows


class _Repeats:
    """Finds ids that come in more than one unit, as when a manifest names a video twice: the first one stays."""

    def __init__(self, folder: UnitFolder):
        hashes = [_hashes(pq.read_table(folder.path(n) / "clips.parquet", columns=["id"])) for n in folder.numbers()]
        found, counts = np.unique(np.concatenate([*hashes, np.empty(0, np.int64)]), return_counts=True)
        self._suspects = found[counts > 1]
        self.dropped: list[pa.Table] = []

    def without(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yields the tables without rows whose id came before."""
        self.dropped = []
        seen: set[str] = set()
        for table in tables:
            at = np.flatnonzero(np.isin(_hashes(table), self._suspects)) if len(self._suspects) else ()
            if not len(table):
                continue
            reasons = np.full(len(table), None, object)
            for index in at:
                identity = table["id"][int(index)].as_py()
                reasons[index] = "repeated" if identity in seen else None
                seen.add(identity)
            if len(at):
                result = split(INPUT_STAGE, table, reasons)
                self.dropped.append(result.dropped)
                table = result.kept
            yield table


def _hashes(table: pa.Table) -> np.ndarray:
    """Return a number for each id: millions of strings would be gigabytes."""
    return np.fromiter(map(hash, table["id"].to_pylist()), np.int64, len(table))
