"""Finds stages by name and creates them from a recipe's values."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from ...utils.text import one_line
from .base import Stage

# Options that change where or how fast a stage runs, but not its result: a run may continue with other values.
HOW_KEYS = {
    *("device", "cpu_threads", "decoders", "batch", "chunks_per_batch", "clips_per_batch", "tokens_per_batch"),
    *("base_url", "cache", "concurrency", "api_key_env", "timeout_s", "max_attempts", "max_wait_s", "give_up_after"),
}
# The module and class of each stage. A run imports only the stages it uses, since some import a model's code.
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
_TAKES = ("videos", "clips", "both")
_TAKEN_NAMES = ("input", "dataset")  # steps that are in the funnel, and in dropped rows, next to the stages


def find_stage(name: str) -> type[Stage]:
    """Return the class of a stage.

    Args:
        name: of a stage in `STAGES`, or `package.module:Class` for a stage of the user's own.

    Raises:
        ValueError: if there is no such stage, or the class is not a stage.
    """
    if ":" not in name and name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {near[0]}? Or" if near else f"expected one of {', '.join(STAGES)}, or"
        raise ValueError(f"stage {name!r} is unknown: {hint} a stage of your own as package.module:Class")
    place = name if ":" in name else f"{__package__}.{STAGES[name]}"
    module_name, _, class_name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # the module is the user's, and may raise anything
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise ValueError(
            f"stage {name!r} cannot be imported: {kind}{one_line(error)}; expected package.module:Class, with the "
            "module on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ValueError(f"stage {name!r} is not a subclass of livecc_hf.production.stages.base.Stage")
    if not dataclasses.is_dataclass(found):
        raise ValueError(f"stage {name!r} is not a dataclass: put @dataclass(frozen=True) above the class")
    if not isinstance(getattr(found, "name", None), str):
        raise ValueError(f'stage {name!r} has no name: give its class one, such as name: ClassVar[str] = "my_filter"')
    _check_class(found, name)
    return found


def _check_class(found: type[Stage], name: str) -> None:
    """Raise a ValueError if the class of a stage has a wrong attribute."""
    if found.name in _TAKEN_NAMES:
        raise ValueError(f"stage {name!r} has the name {found.name!r}, which a run's own step has: choose another")
    if found.takes not in _TAKES:
        raise ValueError(f"stage {name!r}: takes is {found.takes!r}: expected one of {', '.join(_TAKES)}")
    reads = getattr(found, "reads", None)
    if isinstance(reads, str):
        raise ValueError(f"stage {name!r}: reads is {reads!r}: expected a tuple of columns, such as ({reads!r},)")


def make_stage(name: str, thresholds: Mapping[str, Any] | None = None) -> Stage:
    """Create a stage from its name and thresholds.

    Args:
        name: as `find_stage` takes it.
        thresholds: values from YAML, by name; default: the stage's defaults.

    Raises:
        ValueError: if the stage or a threshold is unknown, or a value is invalid.
    """
    cls = find_stage(name)
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}
    values = {}
    for key, value in (thresholds or {}).items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            known = f"did you mean {near[0]}?" if near else f"it has: {', '.join(fields) or 'no thresholds'}"
            raise ValueError(f"stage {cls.name} has no threshold {key!r}: {known}")
        values[key] = convert_value(value, fields[key], f"{cls.name}.{key}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith(cls.name):
            raise
        raise ValueError(f"stage {cls.name}: {error}") from error


def convert_value(value: Any, field: dataclasses.Field, name: str) -> Any:
    """Return a value from YAML or the command line, converted to the field's type.

    Args:
        value: as YAML reads it.
        field: of the options' dataclass.
        name: of the option, for errors.

    Raises:
        ValueError: if the value does not have the field's type.
    """
    kind = str(field.type)
    if isinstance(value, list) and "tuple" in kind:
        return tuple(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind.startswith("str") and not isinstance(value, str) and not (value is None and "None" in kind):
        raise ValueError(f"{name} is {value!r}: expected text; put it in quotes")  # YAML reads a bare `no` as false
    if "str" in kind or "Any" in kind:
        return value
    if "float" in kind and isinstance(value, str):  # YAML reads 1e-3 as text
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


def stage_values(stage: Stage) -> dict[str, Any]:
    """Return the options of a stage that decide its result, which excludes those such as its device."""
    return {
        item.name: getattr(stage, item.name)
        for item in dataclasses.fields(stage)
        if item.init and item.name not in HOW_KEYS
    }
