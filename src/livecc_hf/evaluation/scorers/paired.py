"""Compares two files of one benchmark row by row: what both share, such as easy videos, cancels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..predictions.file import RowSet
from ..predictions.rows import MODEL
from ..suites import suite_of
from .figures import PERCENT
from .multiple_choice import OVERALL, Graded, grade_rows, row_weights, split
from .statistics import two_sided_p, weighted_mean
from .win_rate import WIN_RATE, both_orders

_Z_95 = 1.959964


@dataclass(frozen=True)
class PairedFigure:
    """One figure of two files.

    Attributes:
        name: as in `Figure`.
        a: the first file's, in percent.
        b: the second's.
        difference: b - a.
        se: standard error of the difference, paired by row and clustered by video.
        low: lower end of its 95 % interval.
        high: upper end.
        p: how often a difference at least this large comes by chance, two-sided.
        n: rows that both have.
        n_only_a: rows that only a has right, or wins more of.
        n_only_b: rows that only b has right, or wins more of.
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
        a: what the first file is called.
        b: what the second is called.
        figures: the headline first.
        notes: what a reader should know, one line each.
    """

    suite: str
    a: str
    b: str
    figures: list[PairedFigure]
    notes: list[str] = field(default_factory=list)


def compare_rows(a: RowSet, b: RowSet, protocol: str | None = None, across_protocols: bool = False) -> Comparison:
    """Compare two files row by row.

    Args:
        a: answers or verdicts.
        b: of the same benchmark.
        protocol: how answers are read; default: the headers'.
        across_protocols: compare files of different protocols all the same.

    Raises:
        ValueError: if they are of different kinds, benchmarks or protocols, or share no row.
    """
    if (a.header.layout, a.header.suite) != (b.header.layout, b.header.suite):
        raise ValueError(
            f"{a.source} holds {a.header.layout} rows of {a.header.suite}, {b.source} {b.header.layout} rows of "
            f"{b.header.suite}: only files of one benchmark can be compared"
        )
    if protocol is None and a.header.protocol != b.header.protocol and not across_protocols:
        raise ValueError(
            f"{a.source} is of protocol {a.header.protocol}, {b.source} of {b.header.protocol}: a difference would be "
            "one of protocols too; --across-protocols compares them all the same"
        )
    if a.header.layout == "choice":
        figures, n_common = _compare_choices(a, b, protocol)
    elif a.header.layout == "verdict":
        figures, n_common = _compare_verdicts(a, b)
    else:
        raise ValueError(f"{a.source} holds commentaries: compare the verdicts on them (livecc evaluate judge)")
    n_left = [(rows, len({row.key for row in rows.rows}) - n_common) for rows in (a, b)]
    notes = [f"{n:,} rows of {rows.source} are not in the other, or not whole" for rows, n in n_left if n]
    return Comparison(a.header.suite or "", _called(a), _called(b), figures, notes)


def _called(rows: RowSet) -> str:
    return rows.source if rows.header.model is None else f"{rows.header.model} ({rows.source})"


def _compare_choices(a: RowSet, b: RowSet, protocol: str | None) -> tuple[list[PairedFigure], int]:
    suite = suite_of(a.header.suite)
    graded = [
        {item.row.key: item for item in grade_rows(rows.rows, suite.name, protocol or rows.header.protocol or "")}
        for rows in (a, b)
    ]
    pairs = [(item, graded[1][key]) for key, item in graded[0].items() if key in graded[1]]
    _check_common(pairs, a, b)
    for ours, theirs in pairs:
        if ours.row.answer != theirs.row.answer:
            raise ValueError(
                f"row {ours.row.key!r}: the right answer is {ours.row.answer} in {a.source} and {theirs.row.answer} in "
                f"{b.source}: they are of different questions"
            )
    other = {ours.row.key: theirs for ours, theirs in pairs}
    common = [ours for ours, _ in pairs]
    figures = [_paired_choice(OVERALL, common, other, suite.mean_of)]
    for names in suite.breakdowns:
        if len(names) == 1:
            for values, part in split(common, names):
                below = suite.mean_of[suite.mean_of.index(names[0]) + 1 :] if names[0] in suite.mean_of else ()
                figures.append(_paired_choice(f"{names[0]}={values[0]}", part, other, below))
    return figures, len(pairs)


def _paired_choice(name: str, part: Sequence[Graded], other: dict[str, Graded], mean_of: Sequence[str]) -> PairedFigure:
    weights, parts = row_weights(part, mean_of)
    values = np.array([[item.is_correct, other[item.row.key].is_correct] for item in part], dtype=float)
    return _paired(name, values, weights, parts, [item.row.video for item in part])


def _compare_verdicts(a: RowSet, b: RowSet) -> tuple[list[PairedFigure], int]:
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
    figures = [_paired(name, np.array(values, dtype=float), weights, parts, videos) for name, values in columns.items()]
    return figures, len(pairs)


def _check_common(pairs: Sequence[object], a: RowSet, b: RowSet) -> None:
    if not pairs:
        raise ValueError(f"{a.source} and {b.source} share no row: they cannot be compared")


def _paired(
    name: str, values: np.ndarray, weights: np.ndarray, parts: np.ndarray, videos: Sequence[str]
) -> PairedFigure:
    """Return a figure from both files' values, of shape (rows, 2)."""
    a, b = (100 * (weights[:, None] * values).sum(0)).tolist()
    differences = values[:, 1] - values[:, 0]
    difference, se = weighted_mean(differences, weights, parts, videos)
    difference, se = 100 * difference, None if se is None else 100 * se
    half = None if se is None else _Z_95 * se
    return PairedFigure(
        *(name, a, b, difference, se),
        low=None if half is None else difference - half,
        high=None if half is None else difference + half,
        p=two_sided_p(difference, se),
        n=len(values),
        n_only_a=int((differences < 0).sum()),
        n_only_b=int((differences > 0).sum()),
    )
