"""The recipes that come with the package, by name: in a clone the folder `recipes/`, else a copy of it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from livecc_hf.assets import recipes_path

Task = Literal["train", "data"]
# Folders of `recipes/` that hold no training recipes.
_OTHERS = ("accelerate", "data", "serve")


def recipe_names(task: Task) -> list[str]:
    """Return the names of all recipes of `livecc train` or `livecc data build`, such as `own-videos/lora`."""
    folder = _folder(task)
    paths = (path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return sorted(
        str(path.with_suffix("").as_posix()) for path in paths if task == "data" or path.parts[0] not in _OTHERS
    )


def recipe_path(task: Task, name: str) -> Path:
    """Return the file of a recipe.

    Args:
        task: what it is for.
        name: with or without `.yaml`.

    Raises:
        ValueError: if there is none of this name; the message lists those there are.
    """
    names, wanted = recipe_names(task), name.removesuffix(".yaml").removeprefix("recipes/")
    wanted = wanted.removeprefix("data/") if task == "data" else wanted
    if wanted not in names:
        near = difflib.get_close_matches(wanted, names, 1)
        wrong = f"there is no recipe {name!r}" if name else "expected a name"
        guess = f", did you mean {near[0]}?" if near else ";"
        raise ValueError(f"--recipe: {wrong}{guess} there are {', '.join(names)}; a file of your own: --config FILE")
    return _folder(task) / f"{wanted}.yaml"


def with_recipe_as_config(task: Task, argv: Sequence[str]) -> list[str]:
    """Return the arguments with `--recipe NAME` replaced by `--config FILE`.

    Raises:
        ValueError: if there is no such recipe, or a configuration is given too.
    """
    given, words = [], iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--recipe":
            name = value if equals else next(words, "")  # nothing: the error lists what there is
            given += ["--config", str(recipe_path(task, name))]
        else:
            given.append(word)
    if sum(word.partition("=")[0] == "--config" for word in given) > 1:
        raise ValueError("--recipe and --config both name a recipe: give one")
    return given


def _folder(task: Task) -> Path:
    return recipes_path() / "data" if task == "data" else recipes_path()
