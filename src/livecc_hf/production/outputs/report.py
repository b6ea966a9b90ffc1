"""The report of a run: what each stage kept, the numbers its thresholds cut, and samples of what was kept and dropped.

One HTML file that needs nothing else, and the charts as a picture. A person sets thresholds by looking at it.
"""

from __future__ import annotations

import html
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...utils.atomic import replaced_when_done
from ...utils.hashing import text_hashes
from ..execution.units import StageStats
from ..stages.base import Stage
from .report_charts import draw, make_distributions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEPT_SAMPLES, _DROPPED_SAMPLES, _SAMPLE_WORDS = 12, 6, 40
_BATCH_ROWS = 4096


def write_report(
    folder: Path,
    stats: Sequence[StageStats],
    stages: Sequence[Stage],
    kept: Iterable[pa.Table],
    dropped: pq.ParquetFile,
) -> None:
    """Write `report.html` and `report.png`.

    Args:
        folder: where to.
        stats: of each stage.
        stages: for their thresholds.
        kept: the rows that are left, a table at a time.
        dropped: the dropped rows.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    distributions = make_distributions()
    kept_samples = _Samples(_KEPT_SAMPLES)
    for table in kept:
        kept_samples.add(table)
        if "start_s" in table.column_names:
            for item in distributions:
                item.kept += item.count(item.column(table))
    reasons: Counter[tuple[str, str]] = Counter()
    dropped_samples: dict[tuple[str, str], _Samples] = defaultdict(lambda: _Samples(_DROPPED_SAMPLES))
    for batch in dropped.iter_batches(_BATCH_ROWS):
        table = pa.Table.from_batches([batch])
        for item in distributions:
            item.dropped += item.count(_dropped_values(table, item.reasons))
        for pair in table.group_by(["stage", "reason"], use_threads=False).aggregate([]).to_pylist():
            key = (pair["stage"], pair["reason"])
            chosen = table.filter(pc.and_(pc.equal(table["stage"], key[0]), pc.equal(table["reason"], key[1])))
            reasons[key] += len(chosen)
            dropped_samples[key].add(chosen)
    drawn = [item for item in distributions if not item.is_empty]
    figure = draw(stats, drawn, stages)
    with replaced_when_done(folder / "report.png") as partial:
        figure.savefig(partial, format="png", dpi=110)
    page = _page(folder.absolute().name, _svg(figure), stats, stages, reasons, kept_samples, dropped_samples)
    with replaced_when_done(folder / "report.html") as partial:
        partial.write_text(page, encoding="utf-8")


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    with io.BytesIO() as file, rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
        text = file.getvalue().decode()
    return text[text.index("<svg") :]


class _Samples:
    """A few rows, drawn by a hash of their ids: the same ones whatever the order they come in."""

    def __init__(self, size: int):
        self.size = size
        self._chosen: list[tuple[int, dict[str, Any]]] = []

    def add(self, table: pa.Table) -> None:
        hashes = text_hashes(table["id"])
        candidates = np.arange(len(hashes))
        if len(self._chosen) == self.size:
            candidates = np.flatnonzero(hashes < self._chosen[-1][0])
        if len(candidates) > self.size:
            candidates = candidates[np.argpartition(hashes[candidates], self.size - 1)[: self.size]]
        self._chosen += [(int(hashes[index]), _sample(table, int(index))) for index in np.sort(candidates)]
        self._chosen = sorted(self._chosen, key=lambda item: item[0])[: self.size]

    def rows(self) -> list[dict[str, Any]]:
        return [row for _, row in self._chosen]


def _sample(table: pa.Table, index: int) -> dict[str, Any]:
    row = {name: table[name][index].as_py() for name in table.column_names if name not in ("words", "previous")}
    if "words" in table.column_names:
        row["words"] = pc.list_slice(table["words"].slice(index, 1), 0, _SAMPLE_WORDS)[0].as_py() or []
        row["text"] = row.get("text") or " ".join(word["word"] for word in row["words"])
    return row


def _dropped_values(table: pa.Table, reasons: Sequence[tuple[str, str | None]]) -> np.ndarray:
    stage, reason = table["stage"], table["reason"]
    chosen = pc.equal(stage, "")
    for name, cause in reasons:
        is_it = pc.equal(stage, name)
        chosen = pc.or_(chosen, is_it if cause is None else pc.and_(is_it, pc.equal(reason, cause)))
    return table["value"].filter(pc.fill_null(chosen, False)).to_numpy().astype(np.float64)


def _page(
    name: str,
    svg: str,
    stats: Sequence[StageStats],
    stages: Sequence[Stage],
    reasons: Counter[tuple[str, str]],
    kept: _Samples,
    dropped: dict[tuple[str, str], _Samples],
) -> str:
    funnel = [
        [
            item.name,
            item.items_in,
            item.items_out,
            *map(float, (item.hours_in, item.hours_out)),
            item.errors,
            item.seconds,
        ]
        for item in stats
    ]
    # In the order of the stages, and for each the most frequent reason first.
    order = [item.name for item in stats]
    keys = sorted(reasons, key=lambda key: (order.index(key[0]) if key[0] in order else -1, -reasons[key], key))
    heads = ["stage", "in", "kept", "hours in", "hours kept", "errors", "process seconds"]
    thresholds = [
        [stage.name, item.name, str(getattr(stage, item.name)), str(item.metadata.get("help", ""))]
        for stage in stages
        if is_dataclass(stage)
        for item in fields(stage)  # not `name` or `takes`, which nobody sets
        if item.init
    ]
    sections = [
        f"<h1>Data production: {_text(name)}</h1>",
        svg,
        "<h2>Stages</h2>" + _table(heads, funnel),
        "<h2>Why items were dropped</h2>"
        + _table(["stage", "reason", "items"], [[*key, reasons[key]] for key in keys], [_anchor(*key) for key in keys]),
        "<h2>Kept: samples</h2>" + _sample_table(kept.rows()),
    ]
    for stage, reason in keys:
        head = f'<h2 id="{_anchor(stage, reason)}">Dropped by {_text(stage)}: {_text(reason)}</h2>'
        sections.append(head + _sample_table(dropped[stage, reason].rows()))
    sections.append("<h2>Thresholds</h2>" + _table(["stage", "threshold", "value", "what it is"], thresholds))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Data production: {_text(name)}</title>{_STYLE}'
        + "".join(f"<section>{section}</section>" for section in sections)
    )


_STYLE = """<style>
body{font:14px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
section{margin-bottom:2em;overflow-x:auto} svg{width:100%;height:auto}
table{border-collapse:collapse;min-width:50%} th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left;
vertical-align:top;overflow-wrap:break-word} th{white-space:nowrap} td:first-child{overflow-wrap:anywhere;min-width:9em}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums} a{color:inherit}
</style>"""


def _sample_table(rows: Sequence[dict[str, Any]]) -> str:
    names = [name for name in (rows[0] if rows else {}) if any(row.get(name) not in (None, "") for row in rows)]
    names = [name for name in names if name not in ("video", "stage", "reason", "words", "faces")]
    return _table(names, [[row.get(name) for name in names] for row in rows]) if rows else "<p>None.</p>"


def _anchor(stage: str, reason: str) -> str:
    return _text(f"{stage}-{reason}".replace(" ", "_"))


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]], anchors: Sequence[str] | None = None) -> str:
    """Return a table; with `anchors`, the second cell of each row leads to one."""
    rows = [list(row) for row in rows]
    is_number = [any(isinstance(row[column], int | float) for row in rows) for column in range(len(heads))]
    cells = [
        f'<th class="number">{_text(head)}</th>' if right else f"<th>{_text(head)}</th>"
        for head, right in zip(heads, is_number, strict=True)
    ]
    lines = [f"<tr>{''.join(cells)}</tr>"]
    for row, anchor in zip(rows, anchors or [None] * len(rows), strict=True):
        cells = [_cell(value) for value in row]
        if anchor is not None:
            cells[1] = f'<td><a href="#{anchor}">{_text(row[1])}</a></td>'
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:,.2f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{'' if value is None else _text(value)}</td>"


def _text(value: Any) -> str:
    return html.escape(str(value))
