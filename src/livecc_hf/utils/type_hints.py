"""Checks values from files against the type hints of dataclasses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value from YAML or JSON fits a type hint; types unknown to both fit any value."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(value, option) for option in arguments)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if kind is tuple and isinstance(value, list | tuple):  # YAML and JSON have only lists
        kinds = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
        return not arguments or (len(value) == len(kinds) and all(map(fits, value, kinds)))
    if kind is list and arguments and isinstance(value, list):
        return all(fits(item, arguments[0]) for item in value)
    if kind is dict and arguments and isinstance(value, dict):
        return all(fits(key, arguments[0]) and fits(item, arguments[1]) for key, item in value.items())
    return kind not in (str, bool, NoneType, tuple, list, dict, Sequence) or isinstance(value, kind)


def check_fields(item: Any, *skipped: str) -> None:
    """Check that the fields of a dataclass fit their hints.

    Args:
        item: an instance of a dataclass in a module with `from __future__ import annotations`.
        skipped: names of fields that are not checked.

    Raises:
        ValueError: naming the first field that does not.
    """
    cls: object = type(item)
    hints = _hints(cls)
    for each in fields(item):
        if each.name not in skipped and not fits(value := getattr(item, each.name), hints[each.name]):
            raise ValueError(f"{each.name} is {value!r:.80}: expected {each.type}")


@lru_cache(maxsize=64)
def _hints(cls: object) -> dict[str, Any]:
    return get_type_hints(cls)
