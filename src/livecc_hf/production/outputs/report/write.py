"""Writes the report of a run: what each stage kept, numbers and thresholds, and samples of kept and dropped rows.

The report is one self-contained HTML file, and the charts as a picture. Users set thresholds by it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ....utils.atomic import atomic_write
from ...execution.units import StageStats
from ...stages.base import TEXT_WORDS, Stage
from .charts import draw, make_distributions
from .options import ReportOptions
from .page import Findings, make_page
from .pictures import Photographer
from .samples import Samples

_BATCH_ROWS = 4096


def write_report(
    folder: Path,
    stats: Sequence[StageStats],
    stages: Sequence[Stage],
    kept: Iterable[pa.Table],
    dropped: pq.ParquetFile,
    options: ReportOptions | None = None,
) -> None:
    """Write `report.html` and `report.png`.

    Args:
        folder: to write to.
        stats: statistics of each stage.
        stages: for their thresholds.
        kept: tables of the kept rows.
        dropped: the dropped rows.
        options: how much to show.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    options = options or ReportOptions()
    found = _find(kept, dropped, options)
    drawn = [item for item in found.distributions if not item.is_empty]
    figure = draw(stats, drawn, stages)
    with atomic_write(folder / "report.png") as partial:
        figure.savefig(partial, format="png", dpi=110)
    with Photographer(options) as photographer:
        page = make_page(folder, stats, stages, found, photographer)
    with atomic_write(folder / "report.html") as partial:
        partial.write_text(page, encoding="utf-8", errors="replace")


def _find(kept: Iterable[pa.Table], dropped: pq.ParquetFile, options: ReportOptions) -> Findings:
    """Count rows and draw samples, a table at a time."""
    distributions = make_distributions()
    kept_samples = Samples(options.kept_samples)
    for table in kept:
        kept_samples.add(table)
        if "start_s" in table.column_names:
            for item in distributions:
                item.kept += item.count(item.column(table))
    reasons: Counter[tuple[str, str]] = Counter()
    samples: dict[tuple[str, str], Samples] = defaultdict(lambda: Samples(options.samples, TEXT_WORDS))
    for batch in dropped.iter_batches(_BATCH_ROWS):
        table = pa.Table.from_batches([batch])
        for item in distributions:
            item.dropped += item.count(_dropped_values(table, item.reasons))
        for pair in table.group_by(["stage", "reason"], use_threads=False).aggregate([]).to_pylist():
            key = (pair["stage"], pair["reason"])
            chosen = table.filter(pc.and_(pc.equal(table["stage"], key[0]), pc.equal(table["reason"], key[1])))
            reasons[key] += len(chosen)
            samples[key].add(chosen)
    return Findings(distributions, kept_samples.rows(), reasons, {key: found.rows() for key, found in samples.items()})


def _dropped_values(table: pa.Table, reasons: Sequence[tuple[str, str | None]]) -> np.ndarray:
    stage, reason = table["stage"], table["reason"]
    chosen = pc.equal(stage, "")
    for name, cause in reasons:
        is_it = pc.equal(stage, name)
        chosen = pc.or_(chosen, is_it if cause is None else pc.and_(is_it, pc.equal(reason, cause)))
    return table["value"].filter(pc.fill_null(chosen, False)).to_numpy().astype(np.float64)
