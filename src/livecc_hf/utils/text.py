"""Parts of one-line messages: untrusted texts, error messages, numbers with their nouns."""

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


def counted(n: int, one: str, more: str | None = None) -> str:
    """Return a number with its noun, such as `1 turn` or `2,048 turns`.

    Args:
        n: the number.
        one: the noun in singular.
        more: the noun in plural; default: with an `s`.
    """
    return f"{n:,} {one if n == 1 else more or f'{one}s'}"


def first_bytes(text: str, limit: int) -> str:
    """Return the beginning of a text with at most `limit` bytes in UTF-8, without half of a character."""
    data = text.encode("utf-8", "surrogateescape")
    return text if len(data) <= limit else data[:limit].decode("utf-8", "ignore")
