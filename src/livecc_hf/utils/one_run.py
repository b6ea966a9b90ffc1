"""Keeps a second run out of a place in which one works already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .disk import is_disk_full
from .text import one_line


@contextmanager
def only_run(place: Path, name: str) -> Iterator[None]:
    """Keep other runs on this machine out of a folder, or away from a file, while the block runs.

    Args:
        place: the folder, which exists, or the file; a hidden lock file is in the folder, or next to the file.
        name: of the option that chose the place, for messages.

    Raises:
        ValueError: if another run works there, or the lock cannot be written.
        OSError: if the disk is full.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(place / ".lock" if place.is_dir() else place.with_name(f".{place.name}.lock"))
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:  # of this lock only: the block may wait for locks of other libraries
        raise ValueError(f"another run is working in {place}: wait for it, or choose another {name}") from None
    except OSError as error:
        if is_disk_full(error):
            raise
        raise ValueError(
            f"{place} cannot be written ({error.strerror or one_line(error)}): choose another {name}"
        ) from error
    try:
        yield
    finally:
        lock.release()
