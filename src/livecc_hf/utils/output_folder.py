"""Checks of output folders."""

from __future__ import annotations

import os
from pathlib import Path


def check_new_folder(out: Path, error: type[ValueError] = ValueError) -> None:
    """Check that a folder can be created without overwriting anything.

    Args:
        out: the folder; must not exist, or be empty.
        error: the type of the error.

    Raises:
        ValueError: of type `error`, if `out` is not empty or not a folder, or a parent is not a folder.
    """
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise error(f"{out} exists and is not an empty folder: choose another, or remove it")
    above = next((folder for folder in out.parents if os.path.lexists(folder)), None)
    if above is not None and not above.is_dir():
        raise error(f"{out} cannot be created: {above} is not a folder; choose another place")
