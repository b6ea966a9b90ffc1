"""Says how a run is getting on: a line now and then, with every stage's items and rate."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from .units import StageStats, total_stats

Say = Callable[[str], None]


def say_to_stderr(line: str) -> None:
    """Print a line where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Counts finished units.

    Args:
        say: takes a line.
        every_s: seconds between lines.
        clock: seconds that never go back.
    """

    def __init__(self, say: Say = say_to_stderr, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic):
        self.say, self.every_s, self._clock = say, every_s, clock
        self.total: int | None = None
        self.stats: list[StageStats] = []
        self.done = 0
        self._began = self._said = clock()

    def add(self, stats: Sequence[StageStats]) -> None:
        """Counts a unit, and says a line if it is time."""
        self.stats = total_stats(iter((self.stats, stats)))
        self.done += 1
        now = self._clock()
        if now - self._said >= self.every_s:
            self._said = now
            self.say(self.line())

    def line(self) -> str:
        """Returns how far the run is: each stage with what it kept and how many items a second it was given."""
        elapsed = max(self._clock() - self._began, 1e-9)
        parts = [f"{self.done:,}{'' if self.total is None else f'/{self.total:,}'} units in {_clock_time(elapsed)}"]
        parts += [f"{item.name} {item.items_out:,} ({_rate(item.items_in / elapsed)}/s)" for item in self.stats]
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"{_clock_time(elapsed / self.done * (self.total - self.done))} left")
        return " · ".join(parts)


def funnel_table(stats: Sequence[StageStats]) -> str:
    """Return what each stage was given and kept, as lines of text."""
    rows = [("stage", "in", "kept", "hours in", "hours kept", "dropped", "errors", "items/s")]
    for item in stats:
        rate = _rate(item.items_in / item.seconds) if item.seconds else "-"
        hours = (f"{item.hours_in:,.1f}", f"{item.hours_out:,.1f}")
        counts = (f"{item.items_in:,}", f"{item.items_out:,}")
        rows.append((item.name, *counts, *hours, f"{item.dropped:,}", f"{item.errors:,}", rate))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    return "\n".join(lines)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _clock_time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
