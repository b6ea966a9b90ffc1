"""Scores as files: `scores.json` for programs, a Markdown table for a model card."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from livecc_hf import __version__
from livecc_hf.utils.atomic import replaced_when_done, write_json

from ..scorers.figures import PERCENT, Figure, Score
from ..scorers.paired import Comparison
from ..suites import SUITES

MARK, FORMAT = "livecc_hf_scores", 1


def write_scores(path: str | os.PathLike, scores: Sequence[Score]) -> None:
    """Write scores as JSON, with every figure's N, standard error and floor."""
    write_json(path, {MARK: FORMAT, "version": __version__, "scores": [score.to_json() for score in scores]})


def read_scores(path: str | os.PathLike) -> list[Score]:
    """Read what `write_scores` wrote.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict) or value.get(MARK) != FORMAT:
        raise ValueError(f"{path} holds no scores: expected a scores.json of livecc evaluate score")
    return [Score.from_json(item) for item in value["scores"]]


def markdown(scores: Sequence[Score], headline_only: bool = False) -> str:
    """Return scores as Markdown, a table for each.

    Args:
        scores: in order.
        headline_only: one table for all, of the headlines, as a model card has it.
    """
    if headline_only:
        heads = ["benchmark", "protocol", "model", "figure", *_FIGURE_HEADS]
        rows = [
            [_title(score), score.protocol or "", score.subject, *_figure_cells(item)]
            for score in scores
            for item in score.figures[: score.n_headline]
        ]
        return _table(heads, rows) + "".join(f"\n- {note}" for score in scores for note in score.notes)
    sections = []
    for score in scores:
        who = score.subject if score.model else None
        what = ", ".join(text for text in (who, score.protocol and f"protocol {score.protocol}") if text)
        title = f"## {_title(score)}{f': {what}' if what else ''}\n\n{score.source}\n"
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
    title = SUITES[comparison.suite].title if comparison.suite in SUITES else comparison.suite
    return f"## {title}\n\nA: {comparison.a}\n\nB: {comparison.b}\n\n{_table(heads, rows)}{notes}"


_FIGURE_HEADS = ["value", "± SE", "N", "invalid", "missing", "constant answer"]


def _title(score: Score) -> str:
    return SUITES[score.suite].title if score.suite in SUITES else score.suite


def _figure_cells(item: Figure) -> list[str]:
    unit = f" {item.unit}" if item.unit else ""
    value = "withheld: incomplete" if item.value is None else f"{item.value:.2f}{unit}"
    if item.value is None and "(N = " not in item.name:
        value = "-"
    floor = "" if item.floor is None else f"{item.floor:.2f}{unit} ({item.floor_answer})"
    correct = f" ({item.n_correct:,})" if item.n_correct is not None and item.unit == PERCENT else ""
    return [
        *(item.name, value, "" if item.se is None else f"{item.se:.2f}", f"{item.n:,}{correct}"),
        *("" if not count else f"{count:,}" for count in (item.n_invalid, item.n_missing)),
        floor,
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def write_markdown(path: str | os.PathLike, text: str) -> None:
    """Write Markdown: whole or not at all."""
    with replaced_when_done(path) as partial:
        partial.write_text(text, encoding="utf-8")
