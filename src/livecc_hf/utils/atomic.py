"""Write files atomically: a reader sees the old file or the complete new one."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .text import first_bytes

_STEM_BYTES = 200  # of a temporary name: file systems allow 255 bytes, with suffix and mark
_IS_WINDOWS = sys.platform == "win32"


@contextmanager
def atomic_write(path: str | os.PathLike, sync: bool = True, keeps_suffix: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces the file on success and is removed on failure.

    Args:
        path: the file to write; missing parent folders are created.
        sync: call fsync, so that the file survives a power cut and a full disk is reported here.
        keeps_suffix: keep the file's suffix on the temporary path, for writers that derive the format from it.

    Raises:
        OSError: if the file cannot be written; an existing file is left unchanged.
    """
    path = Path(path)
    mark, stem = f"{os.getpid()}.partial", _short(path.stem)
    partial = path.with_name(f".{stem}.{mark}{path.suffix}" if keeps_suffix else f".{stem}{path.suffix}.{mark}")
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
    """Write a text as UTF-8, atomically; see `atomic_write`."""
    with atomic_write(path, sync) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, sync: bool = True) -> None:
    """Write a value as JSON, atomically; see `atomic_write`."""
    write_text(path, json.dumps(value, indent=1), sync)


def flush(path: str | os.PathLike) -> None:
    """Wait until a file or folder is on disk; some file systems report a full disk only at this point.

    Windows flushes only files that are open for writing, and no folders.
    """
    if _IS_WINDOWS and Path(path).is_dir():
        return
    handle = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _short(stem: str) -> str:
    """Return a name's stem, or its beginning and a hash of it, so that names with one beginning stay different."""
    data = os.fsencode(stem)
    if len(data) <= _STEM_BYTES:
        return stem
    return f"{first_bytes(stem, _STEM_BYTES - 17)}-{hashlib.blake2b(data, digest_size=8).hexdigest()}"
