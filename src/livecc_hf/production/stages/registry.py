"""Finds stages by name, and makes them from a recipe's values."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from .base import Stage

# Options that change how fast or where a stage runs, but not its result: a run may continue with other values.
HOW_KEYS = {
    *("device", "cpu_threads", "decoders", "chunks_per_batch", "clips_per_batch", "tokens_per_batch"),
    *("base_url", "cache", "concurrency", "api_key_env", "timeout_s", "max_attempts", "max_wait_s", "give_up_after"),
}
# The module of each stage: a run imports only those it uses, since some import a model's code.
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
    """Return the class of a stage, by name or, for one of the user's own, as `package.module:Class`.

    Raises:
        ValueError: if there is no such stage.
    """
    if ":" not in name and name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(STAGES)}"
        raise ValueError(f"stage {name!r} is unknown: {hint}, or your own as package.module:Class")
    place = name if ":" in name else f"{__package__}.{STAGES[name]}"
    module_name, _, class_name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"stage {name!r} cannot be imported: {error}; expected package.module:Class of a module on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Stage)):
        raise ValueError(f"stage {name!r} is not a subclass of livecc_hf.production.stages.base.Stage")
    if not dataclasses.is_dataclass(found):
        raise ValueError(f"stage {name!r} is not a dataclass: put @dataclass(frozen=True) above the class")
    if not isinstance(getattr(found, "name", None), str):
        raise ValueError(f'stage {name!r} has no name: give the class one, such as name: ClassVar[str] = "my_filter"')
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
        values[key] = convert_value(value, fields[key], f"{cls.name}.{key}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"stage {cls.name}: {error}") from error


def convert_value(value: Any, field: dataclasses.Field, name: str) -> Any:
    """Return a value from YAML or the command line, converted to the field's type.

    Raises:
        ValueError: if it does not fit.
    """
    kind = str(field.type)
    if isinstance(value, list) and "tuple" in kind:
        return tuple(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind.startswith("str") and not isinstance(value, str) and not (value is None and "None" in kind):
        raise ValueError(f"{name} is {value!r}: expected text; put it into quotes")  # YAML reads a bare `no` as false
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
    """Return the options of a stage that decide its output: not, for example, its device."""
    return {
        item.name: getattr(stage, item.name)
        for item in dataclasses.fields(stage)
        if item.init and item.name not in HOW_KEYS
    }
