"""Errors that are raised in one process and reported in another."""

from __future__ import annotations

import errno
import pickle

from .disk import is_disk_full
from .text import one_line


def pickle_error(error: Exception) -> bytes:
    """Pickle an error for another process.

    A full disk becomes an `OSError` with its number, even if only the message says so. An error that cannot be pickled
    becomes a `RuntimeError` with its text.
    """
    if is_disk_full(error):
        number, said = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
        file = getattr(error, "filename", None)
        return pickle.dumps(OSError(number or errno.ENOSPC, said or one_line(error, 200), file))
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
        return data
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
