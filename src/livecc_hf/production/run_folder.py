"""The folder of a run: records the run's settings, and checks whether a run may continue there."""

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
from .stages.registry import stage_values

UNITS, DATASET, VIDEOS, DROPPED, FUNNEL = "units", "dataset", "videos.parquet", "dropped.parquet", "funnel.json"
CONFIG, REPORT = "build.json", ("report.html", "report.png")
_RESULTS = (DATASET, VIDEOS, DROPPED, FUNNEL, *REPORT)
_OUTPUTS = (UNITS, *_RESULTS, CONFIG)


def claim_folder(out: Path, options: BuildOptions, source: VideoInput, stages: list[Stage]) -> None:
    """Check that the folder is empty or holds a run with the same settings, and record the settings.

    Raises:
        ValueError: if it holds a run with other settings, or files of no run.
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
            write_json(file, ours)  # no unit was made with the recorded settings
            return
        there = _read(file)
        # An option that the run's version did not have counts as left at its default.
        newer = {key: value for key, value in _defaults(stages).items() if key in ours["settings"]}
        _check_same(out, newer | there["settings"], ours["settings"])
        if there.get("limit") != options.limit:
            _grow(out, there.get("limit"), options)
            write_json(file, ours)
        return
    if any((out / name).exists() for name in _OUTPUTS):
        raise ValueError(f"{out} holds files but no {CONFIG}, so no run made it: choose another out")
    write_json(file, ours)


def _defaults(stages: list[Stage]) -> dict[str, Any]:
    """Return the default settings of the stages."""
    options = ((stage.name, item) for stage in stages for item in dataclasses.fields(stage))
    return plain(
        {f"{name}.{item.name}": item.default for name, item in options if item.default is not dataclasses.MISSING}
    )


def plain(value: Any) -> Any:
    """Return a value as JSON keeps it, such as tuples as lists."""
    return json.loads(json.dumps(value, default=str))


def _read(file: Path) -> dict[str, Any]:
    try:
        there = json.loads(file.read_text())
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
    """Let a run continue with a higher limit: its units stay, except the last if the old limit cut it."""
    if old is None or (options.limit is not None and options.limit < old):
        now = "none" if options.limit is None else options.limit
        raise ValueError(
            f"{out} holds a run with limit {'none' if old is None else old}, now it is {now}: it can only grow; choose "
            "another out, or --restart to delete the run"
        )
    folder, last, rest = UnitFolder(out / UNITS), old // options.unit_videos, old % options.unit_videos
    if rest and folder.is_done(last) and folder.stats(last)[0].items_in == rest:
        folder.remove(last)


def _clear(out: Path) -> None:
    """Remove the files of a run, and no others."""
    if not (out / CONFIG).is_file():
        return
    for name in _OUTPUTS:  # the settings last: if this is killed, the folder can still be cleared
        path = out / name
        if name != CONFIG:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (out / CONFIG).unlink()
