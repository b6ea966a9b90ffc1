"""What is being worked on: how far each unit is, and an end to stages that hang.

The process that works on a unit leaves a small file beside the finished units, so that whoever started the run, here
or on another node, can say how far it is. A stage that is silent for too long ends its process: nothing less gets rid
of a decoder or driver that hangs.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from ..utils.atomic import write_json
from .columns import hours_of

_FOLDER = ".progress"
_WRITE_EVERY_S = 2.0
_TIMES_LENGTH = 4  # speech recognition without an accelerator may take longer than the video
_BATCH_LENGTH_S = 3600.0  # of the video in a batch, this much counts

_current: UnitWatch | None = None  # of this process
_last_write = -math.inf


@dataclass(frozen=True)
class UnitProgress:
    """How far a unit is.

    Attributes:
        number: of the unit.
        stages: for each stage that began, what `StageStats` takes; the last one may not have finished.
        rows: how many rows the last stage was given.
    """

    number: int
    stages: Sequence[dict[str, Any]]
    rows: int


def time_limit_s(rows: pa.Table, item_timeout_s: float) -> float:
    """Return how long a stage may be silent over a batch: `item_timeout_s`, and four times the video's length.

    Args:
        rows: of videos or clips. Of many, an hour together counts, or the longest one: an alarm that proves false costs
            no item, since each is then tried alone.
        item_timeout_s: in seconds.
    """
    seconds = 3600 * np.nan_to_num(np.asarray(hours_of(rows).to_numpy(zero_copy_only=False), np.float64))
    length_s = min(seconds.sum(), max(seconds.max(), _BATCH_LENGTH_S)) if len(seconds) else 0.0
    return float(min(item_timeout_s + _TIMES_LENGTH * length_s, threading.TIMEOUT_MAX / 2))


def items_done(count: int = 1) -> None:
    """Say, from inside a stage, that it has finished more items of the batch that it was given.

    For stages that take long over a batch: they are seen to move, and get their time anew. Without a run around it,
    as when the stage is used alone, nothing happens. May be called from any thread.
    """
    if _current is not None:
        _current.items_done(count)


class UnitWatch:
    """Writes down how far this process is with a unit, and ends the process when a stage hangs.

    A context manager; one at a time in a process.

    Args:
        folder: of the units.
        number: of the unit.
        group: which part of the stages runs here.
        item_timeout_s: see `time_limit_s`; `None`: no limit.
    """

    def __init__(self, folder: Path, number: int, group: int, item_timeout_s: float | None = None):
        self.item_timeout_s = item_timeout_s
        self._file = folder / _FOLDER / f"{number:06d}.json"
        self._hung = _hung_file(folder, number, group)
        self._trace: TextIO | None = None
        self._lock = threading.Lock()
        self._stages: list[dict[str, Any]] = []
        self._stage, self._began = "", 0.0
        self._rows = self._items = self._in_batch = self._kept = 0
        self._limit_s: float | None = None

    def __enter__(self) -> UnitWatch:
        global _current
        if self.item_timeout_s is not None:
            self._trace = self._hung.open("w")
        _current = self
        return self

    def __exit__(self, *error: object) -> None:
        global _current
        _current = None
        if self._trace is not None:
            faulthandler.cancel_dump_traceback_later()
            self._trace.close()
            self._hung.unlink(missing_ok=True)

    def begin_stage(self, name: str, finished: Sequence[dict[str, Any]], rows: int) -> None:
        """Note that a stage begins.

        Args:
            name: of the stage.
            finished: statistics of the stages before.
            rows: that it is given.
        """
        self._stages, self._stage, self._rows = list(finished), name, rows
        self._began = time.perf_counter()
        self._items = self._in_batch = self._kept = 0
        self.write()

    def begin_batch(self, rows: pa.Table) -> None:
        """Give the stage its time."""
        self._in_batch = 0
        if self._trace is not None and self.item_timeout_s is not None:
            self._limit_s = time_limit_s(rows, self.item_timeout_s)
            self._arm(self._limit_s, self._trace)

    def end_batch(self) -> None:
        """Stop the clock."""
        self._limit_s = None
        if self._trace is not None:
            faulthandler.cancel_dump_traceback_later()

    def items_done(self, count: int) -> None:
        """Count items of the batch that is worked on."""
        with self._lock:
            self._in_batch += count
            if self._limit_s is not None and self._trace is not None:
                self._arm(self._limit_s, self._trace)
            self.write()

    def count(self, items: int, kept: int) -> None:
        """Count a batch that is done."""
        self._in_batch = 0
        self._items += items
        self._kept += kept
        self.write()

    def write(self, now: bool = False) -> None:
        """Write down how far the unit is, unless the process wrote lately."""
        global _last_write
        if not now and time.monotonic() - _last_write < _WRITE_EVERY_S:
            return
        _last_write = time.monotonic()
        stage = {
            "name": self._stage,
            "items_in": min(self._items + self._in_batch, self._rows),
            "items_out": self._kept,
            "seconds": time.perf_counter() - self._began,
        }
        with suppress(OSError):  # it is only to be looked at
            write_json(self._file, {"rows": self._rows, "stages": [*self._stages, stage]}, sync=False)

    def remove(self) -> None:
        """Remove what was written down: the unit is finished."""
        self._file.unlink(missing_ok=True)

    def _arm(self, limit_s: float, trace: TextIO) -> None:
        # A thread of C waits, which needs no lock of the interpreter's: what hangs may hold it.
        faulthandler.dump_traceback_later(limit_s, exit=True, file=trace)


class _NoWatch:
    """Stands in where no run is watching."""

    def begin_stage(self, name: str, finished: Sequence[dict[str, Any]], rows: int) -> None: ...

    def begin_batch(self, rows: pa.Table) -> None: ...

    def end_batch(self) -> None: ...

    def count(self, items: int, kept: int) -> None: ...


def watch() -> UnitWatch | _NoWatch:
    """Return what watches this process's work."""
    return _current if _current is not None else _NoWatch()


def has_hung(folder: Path, number: int, group: int) -> bool:
    """Return whether a process was ended over a unit because a stage hung; ask when the process is gone."""
    file = _hung_file(folder, number, group)
    return file.is_file() and file.stat().st_size > 0


def forget_hung(folder: Path, number: int, group: int) -> None:
    """Remove the mark that `has_hung` finds."""
    _hung_file(folder, number, group).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove what an earlier run left."""
    for file in (*folder.glob(".*.hung"), *(folder / _FOLDER).glob("*")):
        file.unlink(missing_ok=True)


def read_progress(folder: Path) -> list[UnitProgress]:
    """Return how far the units are that are being worked on."""
    found = []
    for name in _names(folder / _FOLDER):
        with suppress(OSError, ValueError, KeyError):  # it is finished, or half written
            value = json.loads((folder / _FOLDER / name).read_text())
            found.append(UnitProgress(int(name.removesuffix(".json")), value["stages"], value["rows"]))
    return found


def _names(folder: Path) -> Iterable[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith("."))  # noqa: PTH208
    except OSError:
        return []


def _hung_file(folder: Path, number: int, group: int) -> Path:
    return folder / f".{number:06d}.{group}.hung"
