"""Compares two files of one benchmark, paired by row, so that the difficulty of a row cancels out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..predictions.file import RowSet
from ..predictions.rows import MODEL, ChoiceRow, CommentaryRow, Row, VerdictRow
from ..suites import suite_of
from .figures import PERCENT
from .multiple_choice import OVERALL, Graded, grade_rows, group_rows, protocol_of, row_weights
from .ratios import Ratio
from .statistics import difference_of_ratios, two_sided_p, weighted_mean
from .text_measures import text_ratios
from .timing import timing_ratios
from .win_rate import WIN_RATE, both_orders

_Z_95 = 1.959964


@dataclass(frozen=True)
class PairedFigure:
    """One figure of two files.

    Attributes:
        name: name as in `Figure`.
        a: value of the first file, in `unit`.
        b: value of the second file.
        difference: b - a.
        se: standard error of the difference, paired by row and clustered by video; `None` with fewer than two videos.
        low: lower end of the difference's 95 % confidence interval.
        high: upper end of that interval.
        p: two-sided p-value of the difference.
        n: rows that both files have.
        n_only_a: rows with a higher value in the first file, such as those that only it answers correctly.
        n_only_b: rows with a higher value in the second file.
        unit: unit of all values, as in `Figure`.
    """

    name: str
    a: float
    b: float
    difference: float
    se: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    n_only_a: int
    n_only_b: int
    unit: str = PERCENT


@dataclass
class Comparison:
    """Two files of one benchmark, side by side.

    Attributes:
        suite: the benchmark.
        a: label of the first file.
        b: label of the second file.
        figures: the compared figures, the headline first.
        notes: remarks for the reader, one line each.
    """

    suite: str
    a: str
    b: str
    figures: list[PairedFigure]
    notes: list[str] = field(default_factory=list)


def compare_rows(
    a: RowSet[Row], b: RowSet[Row], protocol: str | None = None, across_protocols: bool = False
) -> Comparison:
    """Compare two files row by row.

    Args:
        a: answers, verdicts or commentaries.
        b: rows of the same benchmark and layout.
        protocol: how answers are parsed; default: the protocols in the headers.
        across_protocols: allow files of different protocols.

    Raises:
        ValueError: if the files differ in layout, benchmark or protocol, or have no row in common.
    """
    if (a.header.layout, a.header.suite) != (b.header.layout, b.header.suite):
        raise ValueError(
            f"{a.source} holds {a.header.layout} rows of {a.header.suite}, {b.source} {b.header.layout} rows of "
            f"{b.header.suite}: only files of one benchmark can be compared"
        )
    if protocol is None and a.header.protocol != b.header.protocol and not across_protocols:
        raise ValueError(
            f"{a.source} was made by protocol {a.header.protocol}, {b.source} by {b.header.protocol}: the difference "
            "would include that of the protocols; --across-protocols compares them anyway"
        )
    if a.header.layout == "choice":
        figures, n_common = _compare_choices(a.of(ChoiceRow), b.of(ChoiceRow), protocol)
    elif a.header.layout == "verdict":
        figures, n_common = _compare_verdicts(a.of(VerdictRow), b.of(VerdictRow))
    else:
        figures, n_common = _compare_commentaries(a.of(CommentaryRow), b.of(CommentaryRow))
    n_left = [(rows, len({row.key for row in rows.rows}) - n_common) for rows in (a, b)]
    notes = [
        f"{n:,} rows of {rows.source} are left out: they are not complete in both files" for rows, n in n_left if n
    ]
    for rows in (a, b):
        if n := sum(isinstance(row, ChoiceRow) and row.error is not None for row in rows.rows):
            notes.append(f"{n:,} rows of {rows.source} have no answer, such as for a missing video, and count as wrong")
    for what in ("opponent", "judge"):
        names = [getattr(rows.header, what) for rows in (a, b)]
        if all(names) and names[0] != names[1]:
            shown = f"{names[0]} in {a.source}, {names[1]} in {b.source}"
            notes.append(f"the difference of the win rates includes that of the {what}s: {shown}")
    return Comparison(a.header.suite or "", _label(a), _label(b), figures, notes)


def _label(rows: RowSet[Row]) -> str:
    return rows.source if rows.header.model is None else f"{rows.header.model} ({rows.source})"


def _compare_choices(
    a: RowSet[ChoiceRow], b: RowSet[ChoiceRow], protocol: str | None
) -> tuple[list[PairedFigure], int]:
    suite = suite_of(a.header.suite)
    graded = [
        {item.row.key: item for item in grade_rows(rows.rows, suite.name, protocol_of(rows, suite, protocol))}
        for rows in (a, b)
    ]
    pairs = [(item, graded[1][key]) for key, item in graded[0].items() if key in graded[1]]
    _check_common(pairs, a, b)
    for ours, theirs in pairs:
        if ours.row.answer != theirs.row.answer:
            raise ValueError(
                f"row {ours.row.key!r}: the correct answer is {ours.row.answer} in {a.source} and {theirs.row.answer} "
                f"in {b.source}: the files are about different questions"
            )
    other = {ours.row.key: theirs for ours, theirs in pairs}
    common = [ours for ours, _ in pairs]
    figures = [_paired_choice(OVERALL, common, other, suite.mean_of)]
    for names in suite.breakdowns:
        if len(names) == 1:
            for values, part in group_rows(common, names):
                below = suite.mean_of[suite.mean_of.index(names[0]) + 1 :] if names[0] in suite.mean_of else ()
                figures.append(_paired_choice(f"{names[0]}={values[0]}", part, other, below))
    return figures, len(pairs)


def _paired_choice(name: str, part: Sequence[Graded], other: dict[str, Graded], mean_of: Sequence[str]) -> PairedFigure:
    weights, parts = row_weights(part, mean_of)
    values = np.array([[item.is_correct, other[item.row.key].is_correct] for item in part], dtype=float)
    return _paired_mean(name, values, weights, parts, [item.row.video for item in part])


def _compare_verdicts(a: RowSet[VerdictRow], b: RowSet[VerdictRow]) -> tuple[list[PairedFigure], int]:
    ours, theirs = ({row.key: row for row in both_orders(rows.rows)} for rows in (a, b))
    pairs = [(row, theirs[key]) for key, row in ours.items() if key in theirs]
    _check_common(pairs, a, b)
    videos = [row.video for row, _ in pairs]
    weights, parts = np.full(len(pairs), 1 / len(pairs)), np.zeros(len(pairs), dtype=np.int64)
    columns = {
        WIN_RATE: [[row.value, other.value] for row, other in pairs],
        f"{WIN_RATE} shown first": [[row.ab.winner == MODEL, other.ab.winner == MODEL] for row, other in pairs],
        f"{WIN_RATE} shown second": [[row.ba.winner == MODEL, other.ba.winner == MODEL] for row, other in pairs],
    }
    figures = [
        _paired_mean(name, np.array(values, dtype=float), weights, parts, videos) for name, values in columns.items()
    ]
    return figures, len(pairs)


def _compare_commentaries(a: RowSet[CommentaryRow], b: RowSet[CommentaryRow]) -> tuple[list[PairedFigure], int]:
    others = {row.key: row for row in b.rows}
    pairs = [(row, others[row.key]) for row in a.rows if row.key in others]
    _check_common(pairs, a, b)
    timed = [pair for pair in pairs if all(row.reference and (row.turns or row.error) for row in pair)]
    figures = _paired_ratios(timed, timing_ratios) if timed else []
    return figures + _paired_ratios(pairs, text_ratios), len(pairs)


def _paired_ratios(
    pairs: Sequence[tuple[CommentaryRow, CommentaryRow]], ratios_of: Callable[[Sequence[CommentaryRow]], list[Ratio]]
) -> list[PairedFigure]:
    videos = [row.video for row, _ in pairs]
    sides = [ratios_of([pair[side] for pair in pairs]) for side in (0, 1)]
    figures = []
    for ours, theirs in zip(*sides, strict=True):
        difference, se = difference_of_ratios((ours.parts, ours.wholes), (theirs.parts, theirs.wholes), videos)
        if difference is None:
            continue  # undefined for one of the files, such as the lag of commentaries without words
        means = [float(item.scale * item.parts.sum() / item.wholes.sum()) for item in (ours, theirs)]
        scaled = ours.scale * difference, None if se is None else ours.scale * se
        figures.append(_paired_figure(ours.name, means, scaled, theirs.by_row() - ours.by_row(), ours.unit))
    return figures


def _check_common(pairs: Sequence[object], a: RowSet[Row], b: RowSet[Row]) -> None:
    if not pairs:
        raise ValueError(f"{a.source} and {b.source} share no row: they cannot be compared")


def _paired_mean(
    name: str, values: np.ndarray, weights: np.ndarray, parts: np.ndarray, videos: Sequence[str]
) -> PairedFigure:
    """Return the figure of a weighted mean in percent, from both files' values in 0 to 1 of shape (rows, 2)."""
    a_and_b = (100 * (weights[:, None] * values).sum(0)).tolist()
    differences = values[:, 1] - values[:, 0]
    difference, se = weighted_mean(differences, weights, parts, videos)
    return _paired_figure(name, a_and_b, (100 * difference, None if se is None else 100 * se), differences, PERCENT)


def _paired_figure(
    name: str,
    a_and_b: Sequence[float],
    difference: tuple[float, float | None],
    row_differences: np.ndarray,
    unit: str,
) -> PairedFigure:
    """Return a figure from both values, their difference with its standard error, and the differences by row."""
    (a, b), (value, se) = a_and_b, difference
    half = None if se is None else _Z_95 * se
    return PairedFigure(
        *(name, a, b, value, se),
        low=None if half is None else value - half,
        high=None if half is None else value + half,
        p=two_sided_p(value, se),
        n=len(row_differences),
        n_only_a=int((row_differences < 0).sum()),
        n_only_b=int((row_differences > 0).sum()),
        unit=unit,
    )
