"""A disk that is full, told apart from other failures: by error number, or by what libraries say instead."""

from __future__ import annotations

import errno

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors gives the number in its text; PyTorch's writer of archives says where in its own source it stopped.
_TEXTS = (*(f"(os error {number})" for number in _NUMBERS), "PytorchStreamWriter failed", "inline_container.cc")


class DiskFullError(OSError):
    """Nothing more can be written; what is finished is kept."""


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that nothing more can be written.

    Args:
        error: from writing: PyTorch words damage that it finds while reading almost alike.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NUMBERS
    return any(text in str(error) for text in _TEXTS) and "PytorchStreamReader" not in str(error)
