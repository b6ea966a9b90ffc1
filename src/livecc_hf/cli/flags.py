"""Names of options on the command line, also in messages that name them as Python does."""

from __future__ import annotations

import argparse
import re

_KEYWORD = re.compile(r"\b([a-z][a-z0-9_]*)=([^\s:;,]+)")


def flag_of(name: str) -> str:
    """Return the command line flag of an option."""
    return f"--{name.replace('_', '-')}"


def with_flags(message: str, args: argparse.Namespace | None) -> str:
    """Return an error's message with `--top-k -1` instead of `top_k=-1`, where the command line gave this value.

    Args:
        message: the message.
        args: the parsed command line; `None`: it was not parsed, so nothing is replaced.
    """

    def flag(found: re.Match[str]) -> str:
        name, shown = found.groups()
        value = getattr(args, name, None)
        is_given = isinstance(value, int | float | str) and not isinstance(value, bool) and repr(value) == shown
        return f"{flag_of(name)} {shown}" if is_given else found[0]

    return _KEYWORD.sub(flag, message)
