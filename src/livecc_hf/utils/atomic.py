"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replaced_when_done(path: str | os.PathLike, sync: bool = True, keeps_suffix: bool = False) -> Iterator[Path]:
    """Give a name beside a file to write to; it becomes the file if all goes well, and is removed if not.

    Args:
        path: the file; folders above it are made.
        sync: wait until it is on the disk, so that it survives a power cut, and a full disk shows here.
        keeps_suffix: let the name end as the file's does, for a writer that takes the format from it.

    Raises:
        OSError: if it cannot be written; an older file stays as it was.
    """
    path = Path(path)
    mark = f"{os.getpid()}.partial"
    partial = path.with_name(f".{path.stem}.{mark}{path.suffix}" if keeps_suffix else f".{path.name}.{mark}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if sync:
            flush(partial)
        partial.replace(path)
        if sync:
            flush(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str, sync: bool = True) -> None:
    """Write a text in UTF-8; see `replaced_when_done`."""
    with replaced_when_done(path, sync) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, sync: bool = True) -> None:
    """Write a value as JSON; see `replaced_when_done`."""
    write_text(path, json.dumps(value, indent=1), sync)


def flush(path: str | os.PathLike) -> None:
    """Wait until a file or folder is on the disk: a full one shows only then on some file systems."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
