"""Reports the progress of a run: rows, rows per second, time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

Say = Callable[[str], None]


def say_to_stderr(line: str) -> None:
    """Print a line on standard error, apart from results."""
    print(line, file=sys.stderr, flush=True)


class RowProgress:
    """Counts rows, and reports a line now and then.

    Args:
        total: number of rows.
        known: rows that were done before.
        say: called with each line.
        every_s: seconds between lines.
        clock: returns seconds, monotonic.
    """

    def __init__(
        self,
        total: int,
        known: int = 0,
        say: Say = say_to_stderr,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.known, self.done = total, known, 0
        self._say, self._every_s, self._clock = say, every_s, clock
        self._began = self._said = clock()

    def add(self, rows: int = 1) -> None:
        """Count rows, and report a line if one is due."""
        self.done += rows
        if self._clock() - self._said >= self._every_s:
            self._said = self._clock()
            self._say(self.line())

    def line(self) -> str:
        """Return the progress as a line."""
        elapsed = max(self._clock() - self._began, 1e-9)
        rate = self.done / elapsed
        left = self.total - self.known - self.done
        parts = [f"{self.known + self.done:,} of {self.total:,} rows", f"{rate:.3g} rows/s"]
        if self.done and left > 0:
            parts.append(f"{timedelta(seconds=round(left / rate))} left")
        return " · ".join(parts)
