"""Recognise a full disk: by the error number, or by the messages of libraries that do not pass it on."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors puts the number into its message; PyTorch's archive writer only names its own source file.
_TEXTS = (*(f"(os error {number})" for number in _NUMBERS), "PytorchStreamWriter failed", "inline_container.cc")


class DiskFullError(OSError):
    """The disk is full; finished files are kept."""


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error means that the disk is full.

    Args:
        error: raised while writing; PyTorch's messages about damaged files, raised while reading, are similar.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NUMBERS
    return any(text in str(error) for text in _TEXTS) and "PytorchStreamReader" not in str(error)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Name a file in the error if the disk is full, which the error of a write or of FFmpeg does not.

    Raises:
        DiskFullError: if the wrapped code fails because the disk is full.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or not is_disk_full(error):
            raise
        raise DiskFullError(f"the disk of {os.fspath(path)} is full: what was written before is kept") from error
