"""The state of a work unit between stages, and the statistics of stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from ..schemas import DROPPED_SCHEMA
from ..stages.base import StageResult


@dataclass(frozen=True)
class StageStats:
    """Statistics of a stage.

    Attributes:
        name: of the stage.
        items_in, items_out: number of videos or clips given to the stage, and kept by it.
        hours_in, hours_out: hours of video of these items; unknown lengths count as 0.
        dropped: number of rows dropped, including those for lost parts of kept items.
        errors: number of dropped rows on which the stage failed.
        seconds: run time.
    """

    name: str
    items_in: int = 0
    items_out: int = 0
    hours_in: float = 0.0
    hours_out: float = 0.0
    dropped: int = 0
    errors: int = 0
    seconds: float = 0.0

    def __add__(self, other: StageStats) -> StageStats:
        sums = {key: value + getattr(other, key) for key, value in asdict(self).items() if key != "name"}
        return replace(self, **sums)


@dataclass(frozen=True)
class UnitState:
    """A unit between two stages.

    Attributes:
        number: of the unit.
        rows: the rows kept so far.
        dropped: the rows dropped so far, in `DROPPED_SCHEMA`.
        stats: statistics of the stages so far.
    """

    number: int
    rows: pa.Table
    dropped: pa.Table
    stats: tuple[StageStats, ...]

    def after(self, result: StageResult, stats: StageStats) -> UnitState:
        """Return the unit after one more stage."""
        dropped = pa.concat_tables([self.dropped, result.dropped.cast(DROPPED_SCHEMA)])
        return UnitState(self.number, result.kept, dropped, (*self.stats, stats))

    def to_bytes(self) -> bytes:
        """Serialise the unit for another process; a sliced table is written without the rows outside the slice."""
        head = json.dumps([self.number, [asdict(item) for item in self.stats]]).encode()
        sink = pa.BufferOutputStream()
        sink.write(len(head).to_bytes(8, "little") + head)
        for table in (self.rows, self.dropped):
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        return sink.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> UnitState:
        """Return the unit that `to_bytes` serialised."""
        length = int.from_bytes(data[:8], "little")
        number, stats = json.loads(data[8 : 8 + length])
        source = pa.BufferReader(pa.py_buffer(data)[8 + length :])
        rows, dropped = (pa.ipc.open_stream(source).read_all() for _ in range(2))
        return cls(number, rows, dropped, tuple(StageStats(**item) for item in stats))


def total_stats(per_unit: Iterator[Sequence[StageStats]]) -> list[StageStats]:
    """Return the statistics of each stage, summed over units."""
    totals: dict[str, StageStats] = {}
    for stats in per_unit:
        for item in stats:
            totals[item.name] = totals[item.name] + item if item.name in totals else item
    return list(totals.values())
