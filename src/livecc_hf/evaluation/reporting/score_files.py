"""Writes scores as `scores.json` and as Markdown tables."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from livecc_hf import __version__
from livecc_hf.utils.atomic import atomic_write, write_json
from livecc_hf.utils.text import one_line

from ..scorers.figures import PERCENT, Figure, Score
from ..scorers.paired import Comparison
from ..suites import title_of

MARK, FORMAT = "livecc_hf_scores", 1


def write_scores(path: str | os.PathLike, scores: Sequence[Score]) -> None:
    """Write scores as JSON, with N, standard error and floor of each figure."""
    write_json(path, {MARK: FORMAT, "version": __version__, "scores": [score.to_json() for score in scores]})


def read_scores(path: str | os.PathLike) -> list[Score]:
    """Read a file that `write_scores` wrote.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not such a file.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    expected = "expected a scores.json as livecc evaluate score --out writes it"
    if not isinstance(value, dict) or value.get(MARK) != FORMAT:
        raise ValueError(f"{path} holds no scores: {expected}")
    try:
        return [Score.from_json(item) for item in value["scores"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds scores that cannot be read ({one_line(error)}): {expected}") from error


def markdown(scores: Sequence[Score], headline_only: bool = False) -> str:
    """Return scores as Markdown, one table per score.

    Args:
        scores: the scores, in the order to show.
        headline_only: return a single table of the headline figures, as for a model card.
    """
    if headline_only:
        heads = ["benchmark", "protocol", "model", "figure", *_FIGURE_HEADS]
        rows = [
            [title_of(score.suite), score.protocol or "", score.subject, *_figure_cells(item)]
            for score in scores
            for item in score.figures[: score.n_headline]
        ]
        return _table(heads, rows) + "".join(f"\n- {note}" for score in scores for note in score.notes)
    sections = []
    for score in scores:
        subject = score.subject if score.model else None
        details = ", ".join(text for text in (subject, score.protocol and f"protocol {score.protocol}") if text)
        title = f"## {title_of(score.suite)}{f': {details}' if details else ''}\n\n{score.source}\n"
        table = _table(["figure", *_FIGURE_HEADS], [_figure_cells(item) for item in score.figures])
        notes = "".join(f"\n- {note}" for note in score.notes)
        sections.append(f"{title}\n{table}{notes}\n" if notes else f"{title}\n{table}")
    return "\n".join(sections)


def comparison_markdown(comparison: Comparison) -> str:
    """Return a comparison as a Markdown table."""
    heads = ["figure", "A", "B", "B - A", "± SE", "95 % interval", "p", "rows", "only A", "only B"]
    rows = []
    for item in comparison.figures:
        interval = "" if item.low is None else f"{item.low:.2f} to {item.high:.2f}"
        numbers = [f"{value:.2f}" for value in (item.a, item.b)] + [f"{item.difference:+.2f}"]
        tested = ["" if item.se is None else f"{item.se:.2f}", interval, "" if item.p is None else f"{item.p:.3f}"]
        name = item.name if item.unit in (PERCENT, "") else f"{item.name} ({item.unit})"
        rows.append([name, *numbers, *tested, f"{item.n:,}", f"{item.n_only_a:,}", f"{item.n_only_b:,}"])
    notes = "".join(f"\n- {note}" for note in comparison.notes)
    title = title_of(comparison.suite)
    return f"## {title}\n\nA: {comparison.a}\n\nB: {comparison.b}\n\n{_table(heads, rows)}{notes}"


_FIGURE_HEADS = ["value", "± SE", "N", "invalid", "missing", "constant answer"]


def _figure_cells(item: Figure) -> list[str]:
    cells = item.cells()
    counts = ["" if not count else f"{count:,}" for count in (item.n_invalid, item.n_missing)]
    return [item.name, cells.value, cells.se, cells.n, *counts, cells.floor]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def write_markdown(path: str | os.PathLike, text: str) -> None:
    """Write Markdown in one step, so that a killed process leaves no partial file."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
