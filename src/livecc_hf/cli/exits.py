"""Exit codes of the program, and errors as one line."""

from __future__ import annotations

from livecc_hf.utils.text import one_line

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_MAX_MESSAGE = 600


def describe(error: BaseException) -> str:
    """Return an error as one line, with the file name of an `OSError`."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    message = one_line(text) or type(error).__name__
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + " ..."
