"""Reports the progress of a run in a line every few seconds, with the items and rate of every stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from ..utils.reports import Say, say_to_stderr
from .execution.units import StageStats, total_stats
from .watchdog import UnitProgress

_MAX_EVERY_S = 60.0  # longest time between lines
_STALLED_S = 300.0  # a unit without progress for this long is reported


class Progress:
    """Counts finished units, and the progress of those being processed.

    Args:
        say: called with each line.
        every_s: seconds between the first lines; the interval grows to a minute in long runs.
        clock: returns monotonic seconds.
        in_flight: returns the progress of the units being processed.
    """

    def __init__(
        self,
        say: Say = say_to_stderr,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        in_flight: Callable[[], Sequence[UnitProgress]] = tuple,
    ):
        self.say, self.every_s, self._clock, self._in_flight = say, every_s, clock, in_flight
        self.total: int | None = None
        self.stats: list[StageStats] = []
        self.done = 0
        self._began = self._said = clock()
        self._since: dict[int, tuple[UnitProgress, float]] = {}  # by unit: its latest progress, and since when
        self._lock = threading.Lock()

    def add(self, stats: Sequence[StageStats]) -> None:
        """Count a finished unit, and report a line if one is due."""
        with self._lock:
            self.stats = total_stats(iter((self.stats, stats)))
            self.done += 1
        self.say_if_due()

    def say_if_due(self) -> None:
        """Report a line if one is due."""
        now = self._clock()
        with self._lock:
            is_due = now - self._said >= max(self.every_s, min((now - self._began) / 60, _MAX_EVERY_S))
            if is_due:
                self._said = now
        if is_due:
            self.say(self.line())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Report lines while the block runs, even if no unit finishes for a long time."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(min(self.every_s, 1.0)):
                self.say_if_due()

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            over.set()
            ticker.join()

    def line(self) -> str:
        """Return the progress as a line: for each stage its items in, items out, and items per second."""
        now = self._clock()
        elapsed = max(now - self._began, 1e-9)
        moving = self._in_flight()
        with self._lock:
            done, finished = self.done, self.stats
        stats = total_stats(iter((finished, *([StageStats(**stage) for stage in unit.stages] for unit in moving))))
        parts = [f"{done:,}{'' if self.total is None else f'/{self.total:,}'} units in {_clock_time(elapsed)}"]
        parts += [
            f"{item.name} {item.items_in:,} → {item.items_out:,} ({_rate(item.items_in / elapsed)}/s)" for item in stats
        ]
        if self.total is not None and 0 < done < self.total:
            parts.append(f"{_clock_time(elapsed / done * (self.total - done))} left")
        parts += self._stalled(moving, now)
        return " · ".join(parts)

    def _stalled(self, moving: Sequence[UnitProgress], now: float) -> list[str]:
        """Return a text on the unit without progress for longest, if that exceeds `_STALLED_S`; else an empty list."""
        before, self._since = self._since, {}
        for unit in moving:
            known = before.get(unit.number)
            self._since[unit.number] = known if known is not None and known[0] == unit else (unit, now)
        slowest = min(self._since.values(), key=lambda entry: entry[1], default=None)
        if slowest is None or now - slowest[1] < _STALLED_S:
            return []
        unit, since = slowest
        stage = unit.stages[-1]
        place = f"{stage['name']} ({stage['items_in']:,} of {unit.rows:,})"
        return [f"unit {unit.number} has made no progress for {_clock_time(now - since)}: {place}"]


def funnel_table(stats: Sequence[StageStats]) -> str:
    """Return the input and output counts of each stage as a text table."""
    rows: list[tuple[str, ...]] = [("stage", "in", "kept", "hours in", "hours kept", "dropped", "errors", "items/s")]
    for item in stats:
        rate = _rate(item.items_in / item.seconds) if item.seconds else "-"
        hours = [
            "-" if items and not value else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"  # -: lengths are unknown
            for items, value in ((item.items_in, item.hours_in), (item.items_out, item.hours_out))
        ]
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
