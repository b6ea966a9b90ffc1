"""The options of `livecc data build`: a recipe, then `key=value` on the command line, which overrides it."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..captions.languages import language_code
from ..utils.recipes import read_recipe
from .inputs.videos import UNIT_VIDEOS
from .outputs.card import DatasetAbout
from .outputs.dataset_folder import FolderOptions
from .outputs.report.options import ReportOptions
from .stages.base import Stage
from .stages.registry import convert_value, find_stage, make_stage

ENGINES = ("local", "ray")
_ABOUT_KEYS = ("name", "sources", "language", "license", "license_name", "license_link", "notes")
_FOLDER_KEYS = ("videos", "video_feature", "jsonl", "clips_per_shard")
_SECTIONS = ("dataset", "report")  # options that hold options


@dataclass(frozen=True)
class BuildOptions:
    """All options of a run.

    Raises:
        ValueError: if a value is invalid.
    """

    input: str = field(default="", metadata={"help": "Folder of videos, or a .jsonl or .parquet manifest."})
    out: str = field(default="", metadata={"help": "Output folder; an interrupted run continues in it."})
    stages: dict[str, dict[str, Any]] = field(
        default_factory=dict, metadata={"help": "Stages in order, each with its thresholds."}
    )
    engine: str = field(default="local", metadata={"help": "local: processes on this machine; ray: Ray Data."})
    limit: int | None = field(default=None, metadata={"help": "Use only the first N videos."})
    language: str | None = field(
        default="en", metadata={"help": "Preferred language of captions, if a video in a folder has several."}
    )
    media_root: str | None = field(
        default=None, metadata={"help": "Root of relative paths in a manifest; default: its folder."}
    )
    unit_videos: int = field(
        default=UNIT_VIDEOS,
        metadata={"help": "Videos in a work unit, which is written in one step; a crash loses the units in progress."},
    )
    workers: int | None = field(
        default=None, metadata={"help": "Processes for stages without a model; default: one per core."}
    )
    gpus: int | None = field(
        default=None, metadata={"help": "Processes for each stage with a model; default: one per accelerator."}
    )
    max_retries: int = field(default=2, metadata={"help": "Retries of a unit whose process died."})
    item_timeout_s: float = field(
        default=3600.0,
        metadata={
            "help": "Time limit of a stage for an item: this many seconds plus four times the video's length. Then the "
            "process is killed and the item dropped. 0: no limit."
        },
    )
    keep_going: bool = field(
        default=False,
        metadata={"help": "If a stage fails on every item of a unit, drop the items instead of stopping the run."},
    )
    ray_address: str | None = field(
        default=None,
        metadata={"help": "Ray cluster: auto or an address; default: $RAY_ADDRESS, else start Ray on this machine."},
    )
    restart: bool = field(default=False, metadata={"help": "Delete the run in out and start over."})
    dataset: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": f"Options of the dataset and its card: {', '.join(_ABOUT_KEYS + _FOLDER_KEYS)}."},
    )
    report: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": f"Options of report.html: {', '.join(item.name for item in fields(ReportOptions))}."},
    )

    def __post_init__(self) -> None:
        for name, example in (("input", "my-videos"), ("out", "runs/my-dataset")):
            if not getattr(self, name):
                raise ValueError(f"{name} is not given: set it in the recipe or as {name}={example}")
        if not self.stages:
            raise ValueError("no stages are given: expected a recipe with stages, such as recipes/data/my_videos.yaml")
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}: expected one of {', '.join(ENGINES)}")
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError(
                f"ray_address={self.ray_address}: not with engine={self.engine}, which does not use it; leave it out, "
                "or choose engine=ray"
            )
        for name in ("limit", "unit_videos", "workers", "gpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: expected 1 or more")
        if not 0 <= self.item_timeout_s < math.inf:
            raise ValueError(f"item_timeout_s is {self.item_timeout_s}: expected seconds, or 0 for no limit")
        if self.max_retries < 0:
            raise ValueError(f"max_retries is {self.max_retries}: expected 0 or more")
        _check_dataset(self.dataset)
        self.report_options()

    def make_stages(self) -> list[Stage]:
        """Return the stages, in order.

        Raises:
            ValueError: if a stage or threshold is unknown, or a threshold is invalid.
        """
        stages = [make_stage(name, thresholds) for name, thresholds in self.stages.items()]
        names = [stage.name for stage in stages]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ValueError(f"stage {repeated.pop()} is listed twice: expected each stage once")
        return stages

    def folder_options(self) -> FolderOptions:
        """Return the options of the dataset folder."""
        chosen = {key: value for key, value in self.dataset.items() if key in _FOLDER_KEYS}
        return FolderOptions(**chosen, overwrite=True)

    def report_options(self) -> ReportOptions:
        """Return the options of the report."""
        known = {item.name: item for item in fields(ReportOptions)}
        _check_keys(self.report, known, "report key")
        chosen = {key: convert_value(value, known[key], f"report.{key}") for key, value in self.report.items()}
        return ReportOptions(**chosen)

    def about(self, stages: Sequence[Stage], funnel: Mapping[str, Mapping[str, float | None]]) -> DatasetAbout:
        """Return the content of the dataset's card.

        Args:
            stages: of the run.
            funnel: counts by stage name, see `DatasetAbout.funnel`.
        """
        chosen = {key: value for key, value in self.dataset.items() if key in _ABOUT_KEYS}
        chosen.setdefault("name", Path(self.out).expanduser().absolute().name)
        # The card states a language only if an option gives it, or a stage checks it.
        spoken = {stage.name: getattr(stage, "language", None) for stage in stages if stage.name in ("asr", "language")}
        code = spoken.get("language") or spoken.get("asr")
        chosen.setdefault("language", [language_code(code) or code] if code else [])
        return DatasetAbout(**chosen, stages=stages, funnel=funnel)


def load_options(
    config: str | os.PathLike | None, overrides: Sequence[str] = (), only_stages: str | None = None, **flags: Any
) -> BuildOptions:
    """Return the options of a recipe, with those of the command line in place of its own.

    Args:
        config: path of a YAML recipe.
        overrides: `key=value`, `stage.threshold=value` or `dataset.key=value`; values are YAML.
        only_stages: names of the recipe's stages to run, separated by commas.
        flags: options by name; those that are `None` keep the recipe's value.

    Raises:
        FileNotFoundError: if the recipe does not exist.
        ValueError: if a key is unknown or a value is invalid.
    """
    values = read_recipe(config, "recipes/data/my_videos.yaml") if config is not None else {}
    values["stages"] = _stages_of(values.get("stages"))
    for override in overrides:
        _apply(values, override)
    values |= {key: value for key, value in flags.items() if value is not None}
    if only_stages is not None:
        values["stages"] = _chosen(values["stages"], only_stages)
    known = {item.name: item for item in fields(BuildOptions)}
    _check_keys(values, known, "option")
    for key in set(values) - {"stages", *_SECTIONS}:
        values[key] = convert_value(values[key], known[key], key)
    for key in _SECTIONS:
        values[key] = {} if values.get(key) is None else values[key]
        if not isinstance(values[key], dict):
            raise ValueError(f"{key} is {values[key]!r}: expected a mapping")
    return BuildOptions(**values)


def _stages_of(value: Any) -> dict[str, dict[str, Any]]:
    """Return the stages as a mapping of names to thresholds; a recipe may also list names only."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value)
    if not isinstance(value, dict | None):
        raise ValueError(f"stages is {value!r:.80}: expected a mapping of names to thresholds")
    for name, thresholds in (value or {}).items():
        if not isinstance(thresholds, dict | None):
            raise ValueError(f"stage {name} is {thresholds!r:.60}: expected a mapping of thresholds")
    return {str(name): dict(thresholds or {}) for name, thresholds in (value or {}).items()}


def _apply(values: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(
            f"{override!r} is not an option: expected key=value, such as limit=100 or text_loss.max_loss=5"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {override!r} is not YAML: {error}") from error
    section, dot, name = key.rpartition(".")
    if not dot:
        if key == "stages":
            raise ValueError(f"{override!r} cannot replace the recipe's stages: choose among them with --stages a,b")
        values[key] = value
    elif section in _SECTIONS and section not in values["stages"]:
        values[section] = {**(values.get(section) or {}), name: value}
    else:
        stages = values["stages"]
        target = section if section in stages else _by_class_name(stages).get(section)
        if target is None:
            raise ValueError(f"{override!r}: this run has no stage {section!r}; its stages are {', '.join(stages)}")
        stages[target] = {**stages[target], name: value}


def _by_class_name(stages: Mapping[str, Any]) -> dict[str, str]:
    """Map the names of the user's own stages to their keys in the recipe, `package.module:Class`."""
    return {find_stage(key).name: key for key in stages if ":" in key}


def _chosen(stages: dict[str, dict[str, Any]], names: str) -> dict[str, dict[str, Any]]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    own = _by_class_name(stages)
    keys = [own.get(name, name) for name in wanted]
    for name, key in zip(wanted, keys, strict=True):
        if key not in stages:
            raise ValueError(
                f"--stages names {name!r}, which this run does not have; its stages are {', '.join(stages)}"
            )
    return {key: thresholds for key, thresholds in stages.items() if key in keys}


def _check_dataset(values: Mapping[str, Any]) -> None:
    _check_keys(values, _ABOUT_KEYS + _FOLDER_KEYS, "dataset key")
    known = {item.name: item for cls in (DatasetAbout, FolderOptions) for item in fields(cls)}
    for key, value in values.items():
        is_list = isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
        if str(known[key].type).startswith("Sequence") and not is_list:
            raise ValueError(f"dataset.{key} is {value!r}: expected a list of strings, such as [{value}]")
        convert_value(value, known[key], f"dataset.{key}")


def _check_keys(values: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any], what: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ValueError(f"unknown {what} {key!r}: {hint}")
