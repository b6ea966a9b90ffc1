"""Errors of libraries as parts of our own messages."""

from __future__ import annotations


def one_line(error: BaseException, limit: int = 400) -> str:
    """Return an error's message on one line, cut to `limit` characters; its type's name if it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
