"""Reads YAML files of options; every fault is a one-line error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .text import one_line


def read_recipe(path: str | os.PathLike, example: str) -> dict[str, Any]:
    """Return the options in a YAML file.

    Args:
        path: the file.
        example: a recipe to name if there is no such file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a mapping of names to plain values.
    """
    import yaml

    file = Path(path).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"recipe {path} does not exist: expected a YAML file such as {example}")
    if file.is_dir():
        raise ValueError(f"recipe {path} is a folder: expected a YAML file such as {example}")
    try:
        data = file.read_bytes()
        repeated = _repeated_key(yaml.compose(data, yaml.SafeLoader))
        values = yaml.safe_load(data)
    # Unknown tags, invalid values for a tag, bytes that are not text, lists nested too deeply.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML of plain values: {_with_line(error)}") from error
    if repeated is not None:
        raise ValueError(f"{path} has the key {repeated} twice, of which YAML uses the last: remove one")
    if values is None:
        raise ValueError(f"{path} is empty: expected lines of key: value")
    if not isinstance(values, dict):
        kind = "text" if isinstance(values, str) else f"a {type(values).__name__}"
        raise ValueError(f"{path} holds {kind}: expected lines of key: value")
    if strange := [key for key in values if not isinstance(key, str)]:
        raise ValueError(f"{path} has the key {strange[0]!r}: expected the name of an option")
    return values


def _repeated_key(node: Any) -> str | None:
    """Return a key that a mapping of a YAML document has twice, with its line; `None` if there is none."""
    items = getattr(node, "value", None)
    if not isinstance(items, list):
        return None
    seen: set[str] = set()
    for item in items:  # of a list; of a mapping, a pair
        key, value = item if isinstance(item, tuple) else (None, item)
        if key is not None and isinstance(key.value, str):
            if key.value in seen:
                return f"{key.value!r} (line {key.start_mark.line + 1})"
            seen.add(key.value)
        if found := _repeated_key(value):
            return found
    return None


def _with_line(error: Exception) -> str:
    """Return a YAML parser's message, with line and column."""
    mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
    if mark is None:
        return one_line(error, 200)
    return f"line {mark.line + 1}, column {mark.column + 1}: {' '.join(str(problem).split())[:200]}"
