"""The report of a run: what each stage kept, the numbers its thresholds cut, and samples of what was kept and dropped.

One HTML file that needs nothing else, and the charts as a picture. A person sets thresholds by looking at it.
"""

from __future__ import annotations

import heapq
import html
import io
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .stage import Stage
from .units import StageStats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 60
_KEPT_SAMPLES, _DROPPED_SAMPLES, _SAMPLE_WORDS = 12, 6, 40
_BATCH_ROWS = 4096
_KEPT_COLOUR, _DROPPED_COLOUR, _LINE_COLOUR = "#2f6f9f", "#d9822b", "#b00020"


@dataclass
class Distribution:
    """A number that thresholds cut, over what was kept and what was dropped for it.

    Attributes:
        title: with the unit.
        column: a function from clips to the number, float64 (rows,), NaN where there is none.
        reasons: the dropped rows whose `value` is this number: stage, and reason or `None` for all of them.
        thresholds: names of the stages' thresholds that cut it.
        span: range that is drawn; numbers outside count in the first and last bin.
    """

    title: str
    column: Callable[[pa.Table], np.ndarray]
    reasons: Sequence[tuple[str, str | None]]
    thresholds: Sequence[str]
    span: tuple[float, float]
    kept: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def count(self, values: np.ndarray) -> np.ndarray:
        """Returns how many numbers fall into each bin."""
        values = values[np.isfinite(values)]
        return np.histogram(np.clip(values, *self.span), BINS, self.span)[0]

    @property
    def is_empty(self) -> bool:
        """Whether no row has this number."""
        return not (self.kept.any() or self.dropped.any())


def make_distributions() -> list[Distribution]:
    """Return the numbers that the package's thresholds cut."""
    clips = ("pretrain_clips", "sft_clips")

    def of_clips(*reasons: str) -> list[tuple[str, str | None]]:
        return [(stage, reason) for stage in clips for reason in reasons]

    both = [f"{stage}." for stage in clips]
    speed = [f"{stage}{name}" for stage in both for name in ("min_words_per_s", "max_words_per_s")]
    length = [f"{stage}{name}" for stage in both for name in ("min_s", "max_s")]
    return [
        Distribution("Clip length in seconds", _lengths, of_clips("short", "long"), length, (0, 300)),
        Distribution("Words per second", _speeds, of_clips("too_slow", "too_fast"), speed, (0, 6)),
        Distribution("Language score", _column("language_score"), [("language", None)], ["language.*"], (0, 1)),
        Distribution("Text loss", _column("text_loss"), [("text_loss", None)], ["text_loss.*"], (0, 10)),
        Distribution(
            "p(talking head)", _column("p_talking_head"), [("talking_head", None)], ["talking_head.*"], (0, 1)
        ),
    ]


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
        for key in sorted(set(zip(table["stage"].to_pylist(), table["reason"].to_pylist(), strict=True))):
            chosen = table.filter(pc.and_(pc.equal(table["stage"], key[0]), pc.equal(table["reason"], key[1])))
            reasons[key] += len(chosen)
            dropped_samples[key].add(chosen)
    drawn = [item for item in distributions if not item.is_empty]
    figure = draw(stats, drawn, stages)
    _save(folder / "report.png", lambda file: figure.savefig(file, format="png", dpi=110))
    page = _page(_svg(figure), stats, stages, reasons, kept_samples, dropped_samples)
    _save(folder / "report.html", lambda file: file.write(page.encode()))


def draw(stats: Sequence[StageStats], distributions: Sequence[Distribution], stages: Sequence[Stage]) -> Figure:
    """Return the funnel and the distributions as one figure."""
    from matplotlib.figure import Figure

    rows = 1 + (len(distributions) + 1) // 2
    figure = Figure(figsize=(12, 1.6 + 0.42 * len(stats) + 3.0 * (rows - 1)), layout="constrained")
    heights = [1.0 + 0.42 * len(stats), *[3.0] * (rows - 1)]
    grid = figure.add_gridspec(rows, 2, height_ratios=heights)
    _draw_funnel(figure.add_subplot(grid[0, 0]), stats, "items")
    _draw_funnel(figure.add_subplot(grid[0, 1]), stats, "hours")
    for number, item in enumerate(distributions):
        axes = figure.add_subplot(grid[1 + number // 2, number % 2])
        _draw_distribution(axes, item, thresholds_of(item, stages))
    return figure


def thresholds_of(item: Distribution, stages: Sequence[Stage]) -> list[tuple[str, float]]:
    """Return the thresholds of this run that cut a number."""
    found = []
    for stage in stages:
        for name in getattr(stage, "__dataclass_fields__", {}):
            value = getattr(stage, name)
            is_limit = name.startswith(("min_", "max_")) or name == "threshold"
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_named = f"{stage.name}.{name}" in item.thresholds
            # Limits of tokens or rows lie far outside of what is drawn.
            is_any = f"{stage.name}.*" in item.thresholds and is_limit and is_number
            if is_number and (is_named or (is_any and item.span[0] <= value <= item.span[1])):
                found.append((name, float(value)))
    return found


def _draw_funnel(axes: Axes, stats: Sequence[StageStats], what: str) -> None:
    given = [getattr(item, f"{what}_in") for item in stats]
    left = [getattr(item, f"{what}_out") for item in stats]
    places = np.arange(len(stats))
    axes.barh(places, given, color=_DROPPED_COLOUR, alpha=0.35, height=0.72, label="in")
    axes.barh(places, left, color=_KEPT_COLOUR, height=0.72, label="kept")
    widest = max([*given, *left, 1e-9])
    for place, before, after in zip(places, given, left, strict=True):
        number = f"{after:,.0f}" if what == "items" or after >= 100 else f"{after:.2f}"
        if what == "hours" and not after and stats[place].items_out:
            number = "unknown"  # the input does not say how long its videos are
        share = f"  {after / before:.0%}" if 0 < after <= before else ""
        axes.text(max(before, after) + 0.01 * widest, place, number + share, va="center", fontsize=8)
    axes.set_yticks(places, [item.name for item in stats], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, widest * 1.3)
    title = "Videos, then clips, that each stage kept" if what == "items" else "Hours that each stage kept"
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_distribution(axes: Axes, item: Distribution, thresholds: Sequence[tuple[str, float]]) -> None:
    edges = np.linspace(*item.span, BINS + 1)
    width = edges[1] - edges[0]
    axes.bar(edges[:-1], item.kept, width, align="edge", color=_KEPT_COLOUR, label=f"kept {item.kept.sum():,}")
    dropped = f"dropped for it {item.dropped.sum():,}"
    axes.bar(
        edges[:-1], item.dropped, width, align="edge", bottom=item.kept, color=_DROPPED_COLOUR, alpha=0.8, label=dropped
    )
    for name, value in thresholds:
        axes.axvline(value, color=_LINE_COLOUR, linestyle="--", linewidth=1.1, label=f"{name} = {value:g}")
    axes.set_xlim(*item.span)
    axes.set_title(item.title, fontsize=10, loc="left")
    axes.set_ylabel("clips", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    with io.BytesIO() as file, rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
        text = file.getvalue().decode()
    return text[text.index("<svg") :]


class _Samples:
    """A few rows, drawn by a digest of their ids: the same ones whatever the order they come in."""

    def __init__(self, size: int):
        self.size = size
        # Dropped rows may share an id: the number keeps the rows themselves from being compared.
        self._heap: list[tuple[int, str, int, dict[str, Any]]] = []
        self._numbers = count()

    def add(self, table: pa.Table) -> None:
        for index, identity in enumerate(table["id"].to_pylist()):
            key = (-zlib.crc32(str(identity).encode()), str(identity))
            if len(self._heap) < self.size:
                heapq.heappush(self._heap, (*key, next(self._numbers), _sample(table, index)))
            elif key > self._heap[0][:2]:
                heapq.heapreplace(self._heap, (*key, next(self._numbers), _sample(table, index)))

    def rows(self) -> list[dict[str, Any]]:
        return [row for *_, row in sorted(self._heap, key=lambda item: item[:3], reverse=True)]


def _sample(table: pa.Table, index: int) -> dict[str, Any]:
    row = {name: table[name][index].as_py() for name in table.column_names if name not in ("words", "previous")}
    if "words" in table.column_names:
        words = pc.list_slice(table["words"].slice(index, 1), 0, _SAMPLE_WORDS)[0].as_py() or []
        row["text"] = " ".join(word["word"] for word in words)
    return row


def _lengths(clips: pa.Table) -> np.ndarray:
    return pc.subtract(clips["end_s"], clips["start_s"]).to_numpy()


def _speeds(clips: pa.Table) -> np.ndarray:
    counts = pc.cast(pc.fill_null(pc.list_value_length(clips["words"]), 0), pa.float64()).to_numpy()
    return counts / np.maximum(_lengths(clips), 1e-9)


def _column(name: str) -> Callable[[pa.Table], np.ndarray]:
    return lambda clips: clips[name].to_numpy().astype(np.float64)


def _dropped_values(table: pa.Table, reasons: Sequence[tuple[str, str | None]]) -> np.ndarray:
    stage, reason = table["stage"], table["reason"]
    chosen = pc.equal(stage, "")
    for name, cause in reasons:
        is_it = pc.equal(stage, name)
        chosen = pc.or_(chosen, is_it if cause is None else pc.and_(is_it, pc.equal(reason, cause)))
    return table["value"].filter(pc.fill_null(chosen, False)).to_numpy().astype(np.float64)


def _page(
    svg: str,
    stats: Sequence[StageStats],
    stages: Sequence[Stage],
    reasons: Counter[tuple[str, str]],
    kept: _Samples,
    dropped: dict[tuple[str, str], _Samples],
) -> str:
    funnel = [
        [item.name, item.items_in, item.items_out, item.hours_in, item.hours_out, item.errors, item.seconds]
        for item in stats
    ]
    heads = ["stage", "in", "kept", "hours in", "hours kept", "errors", "process seconds"]
    thresholds = [
        [stage.name, name, str(getattr(stage, name)), str(item.metadata.get("help", ""))]
        for stage in stages
        for name, item in getattr(stage, "__dataclass_fields__", {}).items()
        if item.init
    ]
    sections = [
        "<h1>Data production report</h1>",
        svg,
        "<h2>Stages</h2>" + _table(heads, funnel),
        "<h2>Why items were dropped</h2>"
        + _table(["stage", "reason", "items"], [[*key, count] for key, count in reasons.most_common()]),
        "<h2>Kept: samples</h2>" + _sample_table(kept.rows()),
    ]
    for (stage, reason), samples in sorted(dropped.items()):
        sections.append(f"<h2>Dropped by {_text(stage)}: {_text(reason)}</h2>" + _sample_table(samples.rows()))
    sections.append("<h2>Thresholds</h2>" + _table(["stage", "threshold", "value", "what it is"], thresholds))
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Data production</title>{_STYLE}' + "".join(
        f"<section>{section}</section>" for section in sections
    )


_STYLE = """<style>
body{font:14px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222}
section{margin-bottom:2em;overflow-x:auto} svg{width:100%;height:auto}
table{border-collapse:collapse;width:100%} th,td{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left;
vertical-align:top;overflow-wrap:anywhere} td.number{text-align:right;font-variant-numeric:tabular-nums}
</style>"""


def _sample_table(rows: Sequence[dict[str, Any]]) -> str:
    names = [name for name in (rows[0] if rows else {}) if any(row.get(name) not in (None, "") for row in rows)]
    names = [name for name in names if name not in ("video", "stage", "reason")]
    return _table(names, [[row.get(name) for name in names] for row in rows]) if rows else "<p>None.</p>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(head)}</th>" for head in heads) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(_cell(value) for value in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:,.2f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{'' if value is None else _text(value)}</td>"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _save(path: Path, write: Callable[[Any], Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
