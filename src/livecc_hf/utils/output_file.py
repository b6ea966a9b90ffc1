"""Checks of output files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .output_folder import make_output_folder
from .text import one_line


def check_writable(path: Path, option: str) -> None:
    """Check that a file can be written, without changing it; a new one is created and removed again.

    Args:
        path: the file; its folder exists. A device or a named pipe is not opened.
        option: the name of the option that gave it, for the message.

    Raises:
        ValueError: if it is a folder, or cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        if path.is_file():
            path.open("ab").close()
        elif not path.exists():
            path.open("xb").close()
            path.unlink()
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ValueError(f"{option} {os.fspath(path)} cannot be written ({reason}): choose another place") from None


def check_not_read(path: str | os.PathLike, inputs: Iterable[str | os.PathLike]) -> None:
    """Check that a file to write is none of the files that are read.

    Raises:
        ValueError: if it is.
    """
    path = Path(path)
    if path.exists() and any(Path(given).exists() and path.samefile(given) for given in inputs):
        raise ValueError(f"{path} is one of the files that are read: choose another place for the result")


def make_place(path: Path, option: str) -> None:
    """Check that a file can be written, and make its folder; see `check_writable`.

    Raises:
        ValueError: if it cannot be written, or its folder cannot be made.
        OSError: if the disk is full.
    """
    make_output_folder(path.parent)
    check_writable(path, option)
