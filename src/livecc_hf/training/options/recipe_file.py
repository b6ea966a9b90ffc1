"""Reads a training recipe before parsing: a YAML file of options, and overrides from the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from livecc_hf.utils.recipes import read_recipe


@dataclass(frozen=True)
class WrittenRecipe:
    """A recipe as written, before its options are parsed.

    Attributes:
        values: the options in the YAML file, by name.
        words: the command line's words, as `--key value`.
        name: the YAML file's name, such as `recipes/livecc-7b/sft.yaml` or `mine.yaml`; `None` if there is no file.
    """

    values: dict[str, Any]
    words: list[str]
    name: str | None = None

    @property
    def names(self) -> set[str]:
        """The names of all given options."""
        flags = {word.removeprefix("--").partition("=")[0] for word in self.words if word.startswith("--")}
        return set(self.values) | {flag.replace("-", "_").removeprefix("no_") for flag in flags}

    def without(self, names: Sequence[str]) -> WrittenRecipe:
        """Return the recipe without these options."""
        kept: list[str] = []
        is_kept = True
        for word in self.words:
            if word.startswith("--"):
                name = word.removeprefix("--").partition("=")[0].replace("-", "_")
                is_kept = name.removeprefix("no_") not in names
            kept += [word] if is_kept else []
        return replace(self, values={key: v for key, v in self.values.items() if key not in names}, words=kept)


def read_written(argv: Sequence[str]) -> WrittenRecipe:
    """Read `--config FILE` and overrides (`key=value` or `--key value`).

    As in TRL's own scripts, the file's `env` mapping is added to the environment.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a YAML mapping of plain values, or `--config` has no value.
    """
    words: list[str] = []
    for item in argv:
        key, equals, value = item.partition("=")
        is_override = equals and key.isidentifier() and (not words or words[-1] != "--config")
        is_config = equals and key == "--config"
        words += [f"--{key}", value] if is_override else ["--config", value] if is_config else [item]
    values: dict[str, Any] = {}
    name = None
    if "--config" in words:
        at = words.index("--config")
        if at + 1 == len(words):
            raise ValueError(
                "--config is given without a file: expected a recipe, such as recipes/own-videos/lora.yaml"
            )
        values = read_recipe(words[at + 1], "recipes/own-videos/lora.yaml")
        name = _name(Path(words[at + 1]))
        del words[at : at + 2]
    env = values.pop("env", None) or {}
    if not isinstance(env, Mapping):
        raise ValueError(f"env is {env!r:.60}: expected a mapping of names to values")
    os.environ.update({str(key): str(value) for key, value in env.items()})
    return WrittenRecipe(values, words, name)


def _name(path: Path) -> str:
    """Return a recipe's name for cards: its path below `recipes/`, or only the file name, to hide a user's folders."""
    parts = path.expanduser().absolute().parts
    return "/".join(parts[parts.index("recipes") :]) if parts.count("recipes") == 1 else path.name
