"""Base classes of stages: a stage takes a table of rows, keeps some, and drops the others with a reason."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import Field, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns import hours_of
from ..errors import DeviceError as DeviceError  # both errors are exported for authors of stages
from ..errors import StageBrokenError as StageBrokenError
from ..schemas import DROPPED_SCHEMA
from ..watchdog import items_done

TEXT_WORDS = 24  # number of first words kept of a dropped item, for the report


@dataclass(frozen=True)
class StageResult:
    """The result of a stage for a batch.

    Attributes:
        kept: rows for the next stage, in the batch's order.
        dropped: the other rows, in `DROPPED_SCHEMA`.
    """

    kept: pa.Table
    dropped: pa.Table


class Stage(ABC):
    """One step of the pipeline. Subclasses are frozen dataclasses whose fields are thresholds with a `help` text.

    A stage takes batches of any size. Its only state is what `open` loads, so that batches can be processed in any
    process, in any order, and more than once. A broken item does not fail its batch: it is dropped with reason "error".
    A `DeviceError` ends the run; the next start processes the unit again.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # set by @dataclass in each subclass
    name: ClassVar[str]
    takes: ClassVar[str] = "both"  # "videos", "clips" or "both"
    makes_clips: ClassVar[bool] = False  # takes videos and returns clips
    needs_gpu: ClassVar[bool] = False  # runs a model that should be on an accelerator
    batch_rows: ClassVar[int] = 1024  # largest batch that a run passes in

    def open(self) -> None:  # noqa: B027 (most stages have nothing to load)
        """Load models; called once in each process, before the first batch that needs them.

        Raises:
            ValueError, ImportError: if a model or package is missing.
        """

    def needs_open(self, batch: pa.Table) -> bool:
        """Return whether a batch needs what `open` loads."""
        return True

    @abstractmethod
    def __call__(self, batch: pa.Table) -> StageResult:
        """Process a batch of rows in `VIDEO_SCHEMA` or `CLIP_SCHEMA`."""


@dataclass(frozen=True)
class LostPart:
    """A part that a kept item lost, such as some of its words.

    Attributes:
        row: index of the item in its batch.
        reason, value, detail, text: as in `DROPPED_SCHEMA`.
    """

    row: int
    reason: str
    value: float | None
    detail: str
    text: str | None = None


def lost_parts(stage: str, batch: pa.Table, parts: Sequence[LostPart]) -> pa.Table:
    """Return a row in `DROPPED_SCHEMA` for each lost part; `hours` is null, since the items are kept.

    Args:
        stage: the stage's name.
        batch: rows of videos or clips.
        parts: lost parts of these rows.
    """
    rows = batch.take(pa.array([part.row for part in parts], pa.int64()))
    columns = {"id": rows["id"], "video": rows["video"], "stage": pa.array([stage] * len(parts), pa.string())}
    for name in ("reason", "value", "detail", "text"):
        columns[name] = pa.array([getattr(part, name) for part in parts], DROPPED_SCHEMA.field(name).type)
    arrays = [columns.get(field.name, pa.nulls(len(parts), field.type)) for field in DROPPED_SCHEMA]
    return pa.table(arrays, schema=DROPPED_SCHEMA)


class RowFilter(Stage):
    """A filter that decides row by row.

    Subclasses are frozen dataclasses with a `name` and a method `filter`. This is the shortest way to write a filter;
    for millions of rows, a `Stage` that works on whole columns is many times as fast.
    """

    reads: ClassVar[tuple[str, ...] | None] = None  # columns passed to `filter`; `None`: all, which is slower

    @abstractmethod
    def filter(self, row: dict[str, Any]) -> bool | tuple[Any, ...]:
        """Return whether to keep a row.

        If it raises, the row is dropped with reason "error".

        Args:
            row: the columns of `VIDEO_SCHEMA` or `CLIP_SCHEMA` by name; `words` is a list of dicts with `start_s`,
                `end_s` and `word`.

        Returns:
            True to keep the row; False, `(False, reason)` or `(False, reason, value)` to drop it. The report counts
            rows by reason, by default the stage's name; `value` is the number that was compared with a threshold.
        """

    def __call__(self, batch: pa.Table) -> StageResult:
        """Filter a batch, row by row.

        Raises:
            StageBrokenError: if `filter` returns anything else, or `reads` names columns that do not exist.
        """
        names = batch.column_names if self.reads is None else list(self.reads)
        if lost := [name for name in names if name not in batch.column_names]:
            raise StageBrokenError(
                f"stage {self.name} reads {', '.join(lost)}: expected columns of its input, which has "
                f"{', '.join(batch.column_names)}"
            )
        reasons = np.full(len(batch), None, dtype=object)
        values = np.full(len(batch), None, dtype=object)
        for number, row in enumerate(batch.select(names).to_pylist()):
            reasons[number], values[number] = self._judge(row)
            items_done()
        return split(self.name, batch, reasons, values)

    def _judge(self, row: dict[str, Any]) -> tuple[str | None, float | None]:
        """Return the reason to drop a row, or `None` to keep it, and the value."""
        answer = self.filter(row)
        verdict, *rest = answer if isinstance(answer, tuple) and answer else (answer,)
        reason, value = (*rest, None, None)[:2]
        is_reason = reason is None or (isinstance(reason, str) and reason)
        is_value = value is None or isinstance(value, int | float | np.number)
        if not (isinstance(verdict, bool | np.bool_) and len(rest) <= 2 and is_reason and is_value):
            raise StageBrokenError(
                f"stage {self.name}: filter returned {answer!r}: expected True, False, (False, reason) or "
                "(False, reason, value)"
            )
        return (None, None) if verdict else (reason or self.name, value)


def split(
    stage: str,
    batch: pa.Table,
    reasons: np.ndarray,
    values: np.ndarray | None = None,
    details: Sequence[str | None] | None = None,
) -> StageResult:
    """Split a batch into kept rows, those without a reason, and dropped rows.

    Args:
        stage: the stage's name.
        batch: rows of videos or clips.
        reasons: object array of shape (rows,): the reason to drop a row, or `None` to keep it.
        values: array of shape (rows,): the number that was compared with a threshold; NaN or `None`: none.
        details: for each row, a text for the user.
    """
    is_kept = np.array([reason is None for reason in reasons], dtype=bool)
    gone = np.flatnonzero(~is_kept)
    rows, numbers = batch.take(pa.array(gone)), gone.tolist()
    columns = {
        "id": rows["id"],
        "video": rows["video"],
        "stage": pa.array([stage] * len(gone), pa.string()),
        "reason": pa.array([reasons[i] for i in numbers], pa.string()),
        "value": pa.array([None] * len(gone) if values is None else values[gone], pa.float64(), from_pandas=True),
        "detail": pa.array([None if details is None else details[i] for i in numbers], pa.string()),
        "hours": hours_of(rows),
        "text": _first_words(rows),
    }
    columns |= _clip_columns(rows)
    return StageResult(batch.filter(pa.array(is_kept)), pa.table(columns, schema=DROPPED_SCHEMA))


def _clip_columns(rows: pa.Table) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return the columns by which the report shows dropped clips; null for videos."""
    names = ("start_s", "end_s", "words", "faces")
    if "start_s" not in rows.column_names:
        return {name: pa.nulls(len(rows), DROPPED_SCHEMA.field(name).type) for name in names}
    words = pc.list_slice(rows["words"], 0, TEXT_WORDS)
    faces = rows["faces"] if "faces" in rows.column_names else pa.nulls(len(rows), DROPPED_SCHEMA.field("faces").type)
    return {"start_s": rows["start_s"], "end_s": rows["end_s"], "words": words, "faces": faces}


def _first_words(rows: pa.Table) -> pa.Array:
    """Return the first words of each row as text; null for rows without words."""
    if "words" not in rows.column_names:
        return pa.nulls(len(rows), pa.string())
    heads = pc.list_slice(rows["words"], 0, TEXT_WORDS).to_pylist()
    return pa.array([" ".join(word["word"] for word in head) if head else None for head in heads], pa.string())
