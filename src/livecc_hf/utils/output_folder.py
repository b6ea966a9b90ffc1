"""Makes and checks output folders."""

from __future__ import annotations

import os
from pathlib import Path

from .disk import is_disk_full


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


def make_output_folder(out: Path) -> None:
    """Make a folder, with its parents, unless it exists.

    Raises:
        ValueError: if it cannot be made: a file is in its place, or the place cannot be written.
        OSError: if the disk is full.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise ValueError(f"{out} cannot be made a folder ({reason}): choose another place") from error
