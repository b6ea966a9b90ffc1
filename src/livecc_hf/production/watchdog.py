"""Reports the progress of each unit, and ends processes in which a stage hangs.

The process that works on a unit writes its progress to a small file next to the finished units. The process that
started the run, on this node or another, reads these files. If a stage makes no progress for too long, its process
exits, which is the only way to stop a decoder or driver that hangs.
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
_TIMES_LENGTH = 4  # on a CPU, speech recognition may take longer than the video lasts
_BATCH_LENGTH_S = 3600.0  # length of video up to which a batch extends its time limit

_current: UnitWatch | None = None  # the active watch of this process
_last_write = -math.inf


@dataclass(frozen=True)
class UnitProgress:
    """The progress of a unit.

    Attributes:
        number: of the unit.
        stages: for each stage that has begun, the keywords of `StageStats`; the last stage may still be running.
        rows: number of rows given to the last stage.
    """

    number: int
    stages: Sequence[dict[str, Any]]
    rows: int


def time_limit_s(rows: pa.Table, item_timeout_s: float) -> float:
    """Return the seconds without progress after which a stage counts as hanging: `item_timeout_s` + 4 x video length.

    Args:
        rows: the batch of videos or clips. Their total length counts up to an hour, or up to the longest item if that
            is longer. A limit that is too short for a batch loses no item, since each item is then tried alone.
        item_timeout_s: seconds for an item.
    """
    seconds = 3600 * np.nan_to_num(np.asarray(hours_of(rows).to_numpy(zero_copy_only=False), np.float64))
    length_s = min(seconds.sum(), max(seconds.max(), _BATCH_LENGTH_S)) if len(seconds) else 0.0
    return float(min(item_timeout_s + _TIMES_LENGTH * length_s, threading.TIMEOUT_MAX / 2))


def items_done(count: int = 1) -> None:
    """Report from inside a stage that it finished `count` more items of its batch; restarts the stage's time limit.

    Call it in stages that take long for a batch, from any thread. It does nothing outside a run.
    """
    if _current is not None:
        _current.items_done(count)


class UnitWatch:
    """Writes the progress of a unit to a file, and ends this process if a stage hangs.

    A context manager; only one may be active in a process.

    Args:
        folder: of all units.
        number: of the unit.
        group: index of the group of stages that this process runs.
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
            self._trace = self._hung.open("w", encoding="utf-8")
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
        """Record that a stage begins.

        Args:
            name: of the stage.
            finished: statistics of the stages before it, as keywords of `StageStats`.
            rows: number of rows that the stage is given.
        """
        self._stages, self._stage, self._rows = list(finished), name, rows
        self._began = time.perf_counter()
        self._items = self._in_batch = self._kept = 0
        self.write()

    def begin_batch(self, rows: pa.Table) -> None:
        """Start the time limit of a batch."""
        self._in_batch = 0
        if self._trace is not None and self.item_timeout_s is not None:
            self._limit_s = time_limit_s(rows, self.item_timeout_s)
            self._arm(self._limit_s, self._trace)

    def end_batch(self) -> None:
        """Stop the time limit."""
        self._limit_s = None
        if self._trace is not None:
            faulthandler.cancel_dump_traceback_later()

    def items_done(self, count: int) -> None:
        """Add finished items of the current batch, and restart its time limit."""
        with self._lock:
            self._in_batch += count
            if self._limit_s is not None and self._trace is not None:
                self._arm(self._limit_s, self._trace)
            self.write()

    def count(self, items: int, kept: int) -> None:
        """Count a finished batch."""
        self._in_batch = 0
        self._items += items
        self._kept += kept
        self.write()

    def write(self, now: bool = False) -> None:
        """Write the unit's progress; without `now`, at most every two seconds."""
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
        with suppress(OSError):  # the file is only for progress lines
            write_json(self._file, {"rows": self._rows, "stages": [*self._stages, stage]}, sync=False)

    def remove(self) -> None:
        """Remove the progress file of a finished unit."""
        self._file.unlink(missing_ok=True)

    def _arm(self, limit_s: float, trace: TextIO) -> None:
        # faulthandler waits in a C thread without the GIL, which the hanging code may hold.
        faulthandler.dump_traceback_later(limit_s, exit=True, file=trace)


class _NoWatch:
    """Replaces `UnitWatch` outside a run and does nothing."""

    def begin_stage(self, name: str, finished: Sequence[dict[str, Any]], rows: int) -> None: ...

    def begin_batch(self, rows: pa.Table) -> None: ...

    def end_batch(self) -> None: ...

    def count(self, items: int, kept: int) -> None: ...


def watch() -> UnitWatch | _NoWatch:
    """Return the active `UnitWatch` of this process, or a substitute that does nothing."""
    return _current if _current is not None else _NoWatch()


def has_hung(folder: Path, number: int, group: int) -> bool:
    """Return whether a process exited because a stage hung on the unit; valid once that process has exited."""
    file = _hung_file(folder, number, group)
    return file.is_file() and file.stat().st_size > 0


def forget_hung(folder: Path, number: int, group: int) -> None:
    """Remove the file by which `has_hung` knows of a hang."""
    _hung_file(folder, number, group).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove all progress files, which an earlier process may have left."""
    for file in (*folder.glob(".*.hung"), *(folder / _FOLDER).glob("*")):
        file.unlink(missing_ok=True)


def read_progress(folder: Path) -> list[UnitProgress]:
    """Return the progress of the units being processed."""
    found = []
    for name in _names(folder / _FOLDER):
        with suppress(OSError, ValueError, KeyError):  # finished in the meantime, or partly written
            value = json.loads((folder / _FOLDER / name).read_bytes())
            found.append(UnitProgress(int(name.removesuffix(".json")), value["stages"], value["rows"]))
    return found


def _names(folder: Path) -> Iterable[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".json") and not name.startswith("."))  # noqa: PTH208
    except OSError:
        return []


def _hung_file(folder: Path, number: int, group: int) -> Path:
    return folder / f".{number:06d}.{group}.hung"
