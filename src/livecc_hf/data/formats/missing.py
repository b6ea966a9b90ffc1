"""Missing values: `None`, or NaN, which tables have in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: `None`, or NaN, which pandas writes for an empty cell."""
    return value is None or (isinstance(value, float) and value != value)


def without_missing(value: Any) -> Any:
    """Return a value without the keys of missing values, at any depth: tables give every row all keys.

    A NaN in a list, such as in a word's times, stays, since it is not an empty cell.
    """
    if isinstance(value, Mapping):
        return {key: without_missing(item) for key, item in value.items() if not is_missing(item)}
    if isinstance(value, list):
        return [without_missing(item) for item in value]
    return value
