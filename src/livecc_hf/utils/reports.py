"""Lines in which long work reports its progress."""

from __future__ import annotations

import sys
from collections.abc import Callable

Say = Callable[[str], None]


def say_to_stderr(line: str) -> None:
    """Print a line on standard error; standard output is for results."""
    print(line, file=sys.stderr, flush=True)
