"""Makes and checks output folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def new_folder(out: Path, error: type[ValueError] = ValueError) -> Iterator[Path]:
    """Yield a folder to write; a process that fails or is interrupted leaves nothing in the place of `out`.

    The folder is a hidden one next to `out`, renamed at the end, unless `out` exists and is empty: it may be a mount
    point or the working directory, so it is written in place, and emptied again on failure.

    Args:
        out: the folder; must not exist, or be empty.
        error: the type of the error.

    Raises:
        ValueError: of type `error`, as in `check_new_folder`.
    """
    check_new_folder(out, error)
    is_there = out.is_dir()
    place = out if is_there else out.with_name(f".{out.name}.partial")
    if not is_there:
        shutil.rmtree(place, ignore_errors=True)  # left by a killed process
        place.mkdir(parents=True)
    try:
        yield place
        if not is_there:
            place.rename(out)
    except BaseException:
        for path in [*place.iterdir()] if is_there else [place]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        raise


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
