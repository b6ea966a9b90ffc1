"""The output folder of a run: records the run's settings and checks whether a run may continue in it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from livecc_hf import __version__

from ..utils.atomic import write_json
from .execution.unit_folder import UnitFolder
from .inputs.videos import VideoInput
from .options import BuildOptions
from .stages.base import Stage
from .stages.registry import HOW_KEYS, stage_values

UNITS, DATASET, VIDEOS, DROPPED, FUNNEL = "units", "dataset", "videos.parquet", "dropped.parquet", "funnel.json"
CONFIG, REPORT = "build.json", ("report.html", "report.png")
_RESULTS = (DATASET, VIDEOS, DROPPED, FUNNEL, *REPORT)
_OUTPUTS = (UNITS, *_RESULTS, CONFIG)


def claim_folder(out: Path, options: BuildOptions, source: VideoInput, stages: list[Stage]) -> None:
    """Check that the folder is empty or holds a run with the same settings, and record the settings.

    Args:
        out: the folder.
        options: of the run.
        source: the run's input.
        stages: of the run, in order.

    Raises:
        ValueError: if the folder holds a run with other settings, or output files without a record of the settings.
    """
    settings: dict[str, Any] = {
        "input": source.fingerprint(),
        "unit_videos": options.unit_videos,
        "language": options.language,
        "media_root": options.media_root,
    }
    for number, stage in enumerate(stages):
        settings[f"stage {number + 1}"] = stage.name
        settings |= {f"{stage.name}.{key}": value for key, value in stage_values(stage).items()}
    ours = {"version": __version__, "limit": options.limit, "settings": plain(settings)}
    file = out / CONFIG
    if options.restart:
        _clear(out)
    if file.is_file():
        if not UnitFolder(out / UNITS).numbers() and not any((out / name).exists() for name in _RESULTS):
            write_json(file, ours)  # nothing was made with the recorded settings
            return
        there = _read(file)
        # Options that the version of that run did not have count as defaults; options that no longer decide the
        # result are ignored.
        newer = {key: value for key, value in _defaults(stages).items() if key in ours["settings"]}
        recorded = {key: value for key, value in there["settings"].items() if key.rpartition(".")[2] not in HOW_KEYS}
        _check_same(out, newer | recorded, ours["settings"])
        if there.get("limit") != options.limit:
            _grow(out, there.get("limit"), options)
            write_json(file, ours)
        return
    if any((out / name).exists() for name in _OUTPUTS):
        raise ValueError(f"{out} holds files but no {CONFIG}, so they are not of a run: choose another out")
    write_json(file, ours)


def is_output(out: Path, path: Path) -> bool:
    """Return whether a path is among the files that a run in `out` writes."""
    out, path = out.resolve(), path.resolve()
    return path.is_relative_to(out) and path != out and path.relative_to(out).parts[0] in _OUTPUTS


def _defaults(stages: list[Stage]) -> dict[str, Any]:
    """Return the default thresholds of the stages, by `stage.threshold`."""
    options = ((stage.name, item) for stage in stages for item in dataclasses.fields(stage))
    return plain(
        {f"{name}.{item.name}": item.default for name, item in options if item.default is not dataclasses.MISSING}
    )


def plain(value: Any) -> Any:
    """Return a value as JSON stores it: tuples become lists."""
    return json.loads(json.dumps(value, default=str))


def _read(file: Path) -> dict[str, Any]:
    try:
        there = json.loads(file.read_bytes())
        return there | {"settings": dict(there["settings"])}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}), so the run's settings are unknown: choose another "
            "out, or --restart to delete the run"
        ) from error


def _check_same(out: Path, there: dict[str, Any], ours: dict[str, Any]) -> None:
    changed = [key for key in {**there, **ours} if there.get(key) != ours.get(key)]
    if changed:
        lines = "; ".join(f"{key}: {there.get(key)!r} there, {ours.get(key)!r} now" for key in changed[:4])
        raise ValueError(
            f"{out} holds a run with other settings ({lines}): choose another out, or --restart to delete the run"
        )


def _grow(out: Path, old: int | None, options: BuildOptions) -> None:
    """Let a run continue with a higher limit: its units stay, except a last one that the old limit cut short."""
    if old is None or (options.limit is not None and options.limit < old):
        now = "none" if options.limit is None else options.limit
        raise ValueError(
            f"{out} holds a run with limit {'none' if old is None else old}, and limit is {now} now: it can only be "
            "raised or removed; choose another out, or --restart to delete the run"
        )
    folder, last, rest = UnitFolder(out / UNITS), old // options.unit_videos, old % options.unit_videos
    if rest and folder.is_done(last) and folder.stats(last)[0].items_in == rest:
        folder.remove(last)


def _clear(out: Path) -> None:
    """Remove the files of a run and leave others alone."""
    if not (out / CONFIG).is_file():
        return
    for name in _OUTPUTS:  # the settings last, so that a killed restart can be repeated
        path = out / name
        if name != CONFIG:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (out / CONFIG).unlink()
