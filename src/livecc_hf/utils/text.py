"""Untrusted texts and error messages as parts of one-line messages."""

from __future__ import annotations

import re

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ERROR_LIMIT = 400  # characters; some errors quote the whole file


def one_line(said: str | BaseException, limit: int | None = None) -> str:
    """Return a text, or an error's message, on a single line without control characters or surrounding space.

    Args:
        said: the text or the error; an error without a message is shown as the name of its type.
        limit: the maximum length in characters; default: 400 for an error, none for a text.
    """
    text = " ".join(_CONTROL_CHARACTERS.sub(" ", str(said)).split())
    if isinstance(said, BaseException):
        text, limit = text or type(said).__name__, limit or _ERROR_LIMIT
    return text[:limit]
