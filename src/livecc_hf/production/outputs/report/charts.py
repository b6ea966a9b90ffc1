"""The charts of a report: the funnel, and the distributions of the numbers that are compared with thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...execution.units import StageStats
from ...stages.base import Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 60
_CLIP_STAGES = ("pretrain_clips", "sft_clips")
_KEPT_COLOUR, _DROPPED_COLOUR, _LINE_COLOUR = "#2f6f9f", "#d9822b", "#b00020"


@dataclass
class Distribution:
    """The distribution of a number that has a threshold, over kept rows and over rows dropped by it.

    Attributes:
        name: of the number, which is also the column's name if clips have one.
        title: of the chart, with the unit.
        column: function that returns the number of each clip of a table, float64 of shape (rows,), NaN if unknown.
        reasons: the dropped rows whose `value` is this number, as (stage, reason); `None`: all reasons of the stage.
        thresholds: names of the thresholds, as `stage.threshold`; `stage.*`: all limits of the stage.
        span: drawn range; numbers outside it count in the first or last bin.
        kept, dropped: int64 of shape (BINS,): histograms of kept and dropped rows.
    """

    name: str
    title: str
    column: Callable[[pa.Table], np.ndarray]
    reasons: Sequence[tuple[str, str | None]]
    thresholds: Sequence[str]
    span: tuple[float, float]
    kept: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def count(self, values: np.ndarray) -> np.ndarray:
        """Return the histogram of numbers, int64 of shape (BINS,)."""
        values = values[np.isfinite(values)]
        return np.histogram(np.clip(values, *self.span), BINS, self.span)[0]

    def is_cut_by(self, stage: str, reason: str | None = None) -> bool:
        """Return whether a stage drops rows by this number: for the given reason, or for any if it is `None`."""
        return any(name == stage and reason in (None, cause or reason) for name, cause in self.reasons)

    @property
    def is_empty(self) -> bool:
        """Whether no row has this number."""
        return not (self.kept.any() or self.dropped.any())


def make_distributions() -> list[Distribution]:
    """Return empty distributions of all numbers that stages of this package compare with a threshold."""

    def of_clips(*reasons: str) -> list[tuple[str, str | None]]:
        return [(stage, reason) for stage in _CLIP_STAGES for reason in reasons]

    both = [f"{stage}." for stage in _CLIP_STAGES]
    speed = [f"{stage}{name}" for stage in both for name in ("min_words_per_s", "max_words_per_s")]
    length = [f"{stage}{name}" for stage in both for name in ("min_s", "max_s")]
    return [
        Distribution("length_s", "Clip length in seconds", _lengths, of_clips("short", "long"), length, (0, 300)),
        Distribution("words_per_s", "Words per second", _speeds, of_clips("too_slow", "too_fast"), speed, (0, 6)),
        _of_stage("language", "language_score", "Language score", (0, 1)),
        _of_stage("text_loss", "text_loss", "Text loss", (0, 10)),
        _of_stage("talking_head", "p_talking_head", "p(talking head)", (0, 1)),
        Distribution(
            "speaker_ratio",
            "Share of frames in which a face speaks",
            _column("speaker_ratio"),
            [("active_speaker", "active_speaker")],
            ["active_speaker.max_ratio"],
            (0, 1),
        ),
    ]


def _of_stage(stage: str, name: str, title: str, span: tuple[float, float]) -> Distribution:
    """Return the distribution of the one number by which a stage drops rows, which is also a column."""
    return Distribution(name, title, _column(name), [(stage, None)], [f"{stage}.*"], span)


def draw(stats: Sequence[StageStats], distributions: Sequence[Distribution], stages: Sequence[Stage]) -> Figure:
    """Draw the funnel and the distributions in one figure.

    Args:
        stats: of each stage.
        distributions: to draw.
        stages: for their thresholds.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = 1 + (len(distributions) + 1) // 2
    figure = Figure(
        figsize=(12, 1.6 + 0.42 * len(stats) + 3.0 * (rows - 1)), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1)
    )
    heights = [1.0 + 0.42 * len(stats), *[3.0] * (rows - 1)]
    grid = figure.add_gridspec(rows, 2, height_ratios=heights)
    cut = cutting_stage(stats, stages)
    _draw_funnel(figure.add_subplot(grid[0, 0]), stats, "items", cut)
    _draw_funnel(figure.add_subplot(grid[0, 1]), stats, "hours", None)
    for number, item in enumerate(distributions):
        axes = figure.add_subplot(grid[1 + number // 2, number % 2])
        _draw_distribution(axes, item, thresholds_of(item, stages))
    return figure


def thresholds_of(item: Distribution, stages: Sequence[Stage]) -> list[tuple[str, float]]:
    """Return the names and values of a number's thresholds in a run with these stages."""
    found = []
    for stage in stages:
        for name in getattr(stage, "__dataclass_fields__", {}):
            value = getattr(stage, name)
            is_limit = name.startswith(("min_", "max_")) or name == "threshold"
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_named = f"{stage.name}.{name}" in item.thresholds
            # The range excludes other limits, such as those of tokens or pieces.
            is_any = f"{stage.name}.*" in item.thresholds and is_limit and is_number
            if is_number and (is_named or (is_any and item.span[0] <= value <= item.span[1])):
                found.append((name, float(value)))
    return found


def _draw_funnel(axes: Axes, stats: Sequence[StageStats], what: str, cut: int | None) -> None:
    """Draw a bar for each stage; `cut` is the index of the stage that cuts clips, if it is to be marked."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    given = [getattr(item, f"{what}_in") for item in stats]
    left = [getattr(item, f"{what}_out") for item in stats]
    places = np.arange(len(stats))
    axes.barh(places, given, color=_DROPPED_COLOUR, alpha=0.35, height=0.72, label="dropped")
    axes.barh(places, left, color=_KEPT_COLOUR, height=0.72, label="kept")
    widest = max([*given, *left, 1e-9])
    for place, before, after in zip(places.tolist(), given, left, strict=True):
        number = f"{after:,.0f}" if what == "items" or after >= 100 else f"{after:.2f}"
        if what == "hours" and not after and stats[place].items_out:
            number = "unknown"  # the input does not give the lengths of the videos
        share = f"  {after / before:.0%}" if 0 < after <= before else ""
        if place == cut:
            share = f" clips of {before:,} videos"
        axes.text(max(before, after) + 0.01 * widest, place, number + share, va="center", fontsize=8)
    axes.set_yticks(places, [item.name for item in stats], fontsize=9)
    axes.invert_yaxis()
    if cut is not None:
        axes.axhline(cut - 0.5, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, widest * 1.45)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=what == "items"))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if widest >= 10 else "{x:g}"))
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    title = "Videos, then clips, that each stage kept" if what == "items" else "Hours that each stage kept"
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def cutting_stage(stats: Sequence[StageStats], stages: Sequence[Stage]) -> int | None:
    """Return the index of the stage that cuts videos into clips; `None` if there is none."""
    makers = {stage.name for stage in stages if stage.makes_clips}
    return next((index for index, item in enumerate(stats) if item.name in makers), None)


def _draw_distribution(axes: Axes, item: Distribution, thresholds: Sequence[tuple[str, float]]) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    edges = np.linspace(*item.span, BINS + 1)
    width = edges[1] - edges[0]
    # Kept clips may lack a number that was measured before they were cut.
    kept = f"kept {item.kept.sum():,}" if item.kept.any() else "kept: not measured"
    axes.bar(edges[:-1], item.kept, width, align="edge", color=_KEPT_COLOUR, label=kept)
    dropped = f"dropped by it {item.dropped.sum():,}"
    axes.bar(
        edges[:-1], item.dropped, width, align="edge", bottom=item.kept, color=_DROPPED_COLOUR, alpha=0.8, label=dropped
    )
    for name, value in thresholds:
        axes.axvline(value, color=_LINE_COLOUR, linestyle="--", linewidth=1.1, label=f"{name} = {value:g}")
    axes.set_xlim(*item.span)
    axes.set_title(item.title, fontsize=10, loc="left")
    axes.set_ylabel("clips" if item.kept.any() else "dropped", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)


def _lengths(clips: pa.Table) -> np.ndarray:
    return pc.subtract(clips["end_s"], clips["start_s"]).to_numpy()


def _speeds(clips: pa.Table) -> np.ndarray:
    counts = pc.cast(pc.fill_null(pc.list_value_length(clips["words"]), 0), pa.float64()).to_numpy()
    return counts / np.maximum(_lengths(clips), 1e-9)


def _column(name: str) -> Callable[[pa.Table], np.ndarray]:
    return lambda clips: clips[name].to_numpy().astype(np.float64)
