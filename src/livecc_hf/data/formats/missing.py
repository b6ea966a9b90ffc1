"""Missing values in rows: `None`, or NaN in data that comes from tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: `None`, or NaN, which pandas writes for an empty cell."""
    return value is None or (isinstance(value, float) and value != value)


def without_missing(value: Any) -> Any:
    """Remove the keys with missing values from mappings, at any depth: tables give every row all keys.

    NaN in a list, such as in a word's times, is not an empty cell, so it stays.
    """
    if isinstance(value, Mapping):
        return {key: without_missing(item) for key, item in value.items() if not is_missing(item)}
    if isinstance(value, list):
        return [without_missing(item) for item in value]
    return value
