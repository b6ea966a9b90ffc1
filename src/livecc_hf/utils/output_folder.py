"""Folders that commands write whole."""

from __future__ import annotations

import os
from pathlib import Path


def check_new_folder(out: Path, error: type[ValueError] = ValueError) -> None:
    """Check that a folder can be written without touching what is there.

    Args:
        out: must not exist, or be empty.
        error: what to raise.

    Raises:
        ValueError: of the type asked for, if something is there, or a folder above it is none.
    """
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise error(f"{out} exists and is not an empty folder: choose another, or remove it")
    above = next((folder for folder in out.parents if os.path.lexists(folder)), None)
    if above is not None and not above.is_dir():
        raise error(f"{out} cannot be made: {above} is not a folder; choose another place")
