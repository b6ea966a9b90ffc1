"""Draws charts of scores as SVG: accuracy by group, calibration, win rate by length, latency."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..scorers.figures import PERCENT, Figure, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _FLOOR, _GREY = "#2f6f4f", "#c2410c", "#667085"
_MAX_BARS = 40


def charts_of(score: Score) -> list[str]:
    """Return a score's charts as SVG elements; [] if there is nothing to draw.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    drawn = [_groups(name, part) for name, part in breakdowns(score.figures).items() if len(part) > 1]
    if "calibration" in score.series:
        drawn.append(_calibration(score.series["calibration"]))
    if "win_rate_by_length" in score.series:
        drawn.append(_by_length(score.series["win_rate_by_length"]))
    if score.series.get("latency_s"):
        drawn.append(_latency(score.series["latency_s"]))
    return drawn


def breakdowns(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Return the figures of each single group's values, by group name; combinations of groups are left out."""
    found: dict[str, list[Figure]] = {}
    for item in figures:
        name, equals, value = item.name.partition("=")
        if equals and ", " not in value and item.unit == PERCENT and item.value is not None:
            found.setdefault(name, []).append(item)
    return found


def _groups(name: str, figures: list[Figure]) -> str:
    figures = figures[:_MAX_BARS]
    figure, axes = _axes(8, 0.7 + 0.3 * len(figures))
    places = range(len(figures))
    axes.barh(
        places,
        [item.value or 0 for item in figures],
        xerr=[item.se or 0 for item in figures],
        color=_OURS,
        alpha=0.75,
        height=0.7,
        error_kw={"elinewidth": 1, "ecolor": "#222222"},
    )
    for place, item in zip(places, figures, strict=True):
        if item.floor is not None:
            axes.plot([item.floor] * 2, [place - 0.38, place + 0.38], color=_FLOOR, linewidth=2)
    labels = [f"{item.name.partition('=')[2]} ({item.n:,})" for item in figures]
    axes.set_yticks(list(places), labels, fontsize=8)
    axes.set_ylim(len(figures) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy in %, ± standard error; red: best constant answer", fontsize=8)
    axes.set_title(f"By {name.replace('_', ' ')}", fontsize=10, loc="left")
    return _svg(figure)


def _calibration(series: dict[str, Any]) -> str:
    figure, axes = _axes(4.6, 4.0)
    bins = series["bins"]
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":")
    axes.plot([item["confidence"] for item in bins], [item["accuracy"] for item in bins], "o-", color=_OURS)
    for item in bins:
        axes.annotate(f"{item['n']:,}", (item["confidence"], item["accuracy"]), fontsize=7, xytext=(4, -8),
                      textcoords="offset points", color=_GREY)  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the chosen answer", fontsize=8)
    axes.set_ylabel("share of correct answers", fontsize=8)
    error = series["expected_calibration_error"]
    axes.set_title(f"Calibration (expected error {error:.3f})", fontsize=10, loc="left")
    return _svg(figure)


def _by_length(rows: list[dict[str, Any]]) -> str:
    figure, axes = _axes(6, 3)
    places = range(len(rows))
    axes.errorbar(
        places, [row["value"] for row in rows], yerr=[row["se"] or 0 for row in rows], fmt="o-", color=_OURS, capsize=3
    )
    axes.axhline(50, color=_GREY, linewidth=1, linestyle=":")
    axes.set_xticks(list(places), [row["name"] for row in rows], fontsize=8)
    axes.set_ylim(0, 100)
    axes.set_ylabel("win rate in %", fontsize=8)
    axes.set_title("Win rate by the model's word count, in fifths", fontsize=10, loc="left")
    return _svg(figure)


def _latency(values: Sequence[float]) -> str:
    figure, axes = _axes(6, 3)
    axes.hist(values, bins=min(40, max(5, len(values) // 5)), color=_OURS, alpha=0.75)
    axes.axvline(1.0, color=_FLOOR, linewidth=1)
    axes.set_xlabel("seconds from a turn's last frame to its words; red: length of a turn", fontsize=8)
    axes.set_ylabel("turns", fontsize=8)
    axes.set_title("Latency", fontsize=10, loc="left")
    return _svg(figure)


def _axes(width: float, height: float) -> tuple[Any, Axes]:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    with io.BytesIO() as file, rc_context({"svg.hashsalt": "evaluation", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
        text = file.getvalue().decode()
    return text[text.index("<svg") :].replace("<svg ", '<svg class="chart" ', 1)
