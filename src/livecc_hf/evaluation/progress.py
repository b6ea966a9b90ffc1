"""Reports the progress of a run: rows, rows per second, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from livecc_hf.utils.reports import Say, say_to_stderr


class RowProgress:
    """Counts finished rows and reports progress at intervals.

    Args:
        total: number of rows.
        known: rows that an earlier run finished.
        say: called with each progress line.
        every_s: least seconds between lines.
        clock: returns monotonic time in seconds.
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
        self._last: tuple[int, int] | None = None  # what the last line reported

    def add(self, rows: int = 1) -> None:
        """Count finished rows, and report progress if `every_s` seconds have passed."""
        self.done += rows
        if self._clock() - self._said >= self._every_s:
            self._said = self._clock()
            self._last = (self.done, self.total)
            self._say(self.line())

    def end(self) -> None:
        """Report progress, unless the last line said the same."""
        if self._last != (self.done, self.total):
            self._say(self.line())

    def line(self) -> str:
        """Return the progress line: rows done, rows per second, time left."""
        elapsed = max(self._clock() - self._began, 1e-9)
        rate = self.done / elapsed
        left = self.total - self.known - self.done
        parts = [f"{self.known + self.done:,} of {self.total:,} rows", f"{rate:.3g} rows/s"]
        if self.done and left > 0:
            parts.append(f"{timedelta(seconds=round(left / rate))} left")
        return " · ".join(parts)
