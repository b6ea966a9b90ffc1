"""Scores questions with fixed choices: accuracy, standard errors, floors, breakdowns and calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..predictions.file import RowSet
from ..predictions.rows import LETTER, ChoiceRow
from ..suites import Suite, suite_of
from .answers import OFFICIAL, WRONG, grader
from .calibration import calibration
from .figures import Figure, Score, incomplete_headline, incomplete_note
from .statistics import weighted_mean

OVERALL = "overall"
_MAX_NAME = 60


@dataclass(frozen=True)
class Graded:
    """A row with its grade; a row with an error is neither correct nor valid."""

    row: ChoiceRow
    is_correct: bool
    is_valid: bool


def grade_rows(rows: Sequence[ChoiceRow], suite: str, protocol: str) -> list[Graded]:
    """Return the rows with their grades.

    Raises:
        ValueError: if the benchmark is not scored by that protocol.
    """
    grade = grader(suite, protocol)
    return [Graded(row, *(grade(row) if row.error is None else WRONG)) for row in rows]


def protocol_of(rows: RowSet[ChoiceRow], suite: Suite, protocol: str | None = None) -> str:
    """Return the protocol by which answers are parsed: `protocol`, else the header's, else the benchmark's default."""
    return protocol or rows.header.protocol or next(iter(suite.protocols), "")


def score_choices(rows: RowSet[ChoiceRow], protocol: str | None = None, incomplete: bool = False) -> Score:
    """Score answers to a benchmark's questions.

    Args:
        rows: answers, with a header that names the benchmark.
        protocol: how answers are parsed; default: the header's protocol.
        incomplete: show the headline of an incomplete set, with N in its name, instead of withholding it.

    Raises:
        ValueError: if the benchmark or protocol is unknown, there are no rows, or a row lacks a group.
    """
    suite = suite_of(rows.header.suite)
    protocol = protocol_of(rows, suite, protocol)
    if not rows.rows:
        raise ValueError(f"{rows.source} holds no rows: there is nothing to score")
    _check_groups(rows, suite)
    graded = grade_rows(rows.rows, suite.name, protocol)
    n_expected = rows.header.n_rows or suite.n_rows
    n_tried = sum(item.row.error is None for item in graded)
    is_complete = n_tried == n_expected
    figures = _figures(suite, graded)
    if protocol == OFFICIAL and suite.name.startswith("videomme"):
        figures += _answered_only(graded)
    notes = list(rows.notes)
    if not is_complete:
        notes.append(incomplete_note(rows.source, n_tried, n_expected))
        figures[0] = incomplete_headline(figures[0], n_tried, n_expected, incomplete)
    series = calibration([(item.row, item.is_correct) for item in graded])
    return Score(
        *(suite.name, protocol, rows.header.model, rows.source, figures),
        n_expected=n_expected,
        is_complete=is_complete,
        notes=notes,
        series={"calibration": series} if series else {},
        details=asdict(rows.header),
    )


def _check_groups(rows: RowSet[ChoiceRow], suite: Suite) -> None:
    names = {name for names in suite.breakdowns for name in names}
    for row in rows.rows:
        missing = sorted(names - set(row.groups))
        if missing:
            raise ValueError(
                f"{rows.source}: row {row.key!r} has no group {missing[0]!r}, which the score of {suite.title} needs"
            )


def _figures(suite: Suite, graded: Sequence[Graded]) -> list[Figure]:
    """Return the headline and the breakdowns."""
    figures = [figure_of(OVERALL, graded, suite.mean_of)]
    if suite.mean_of:
        figures.append(figure_of(f"{OVERALL} (all rows alike)", graded))
    for names in suite.breakdowns:
        for values, part in group_rows(graded, names):
            label = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
            # A group can be a mean of means itself, such as OVO-Bench's "forward".
            below = suite.mean_of[suite.mean_of.index(names[-1]) + 1 :] if names[-1] in suite.mean_of else ()
            figures.append(figure_of(label, part, below))
    return figures


def group_rows(graded: Sequence[Graded], names: Sequence[str]) -> list[tuple[tuple[str, ...], list[Graded]]]:
    """Return the rows by the values of the named groups, in order of first occurrence."""
    parts: dict[tuple[str, ...], list[Graded]] = defaultdict(list)
    for item in graded:
        parts[tuple(item.row.groups[name] for name in names)].append(item)
    return list(parts.items())


def figure_of(name: str, graded: Sequence[Graded], mean_of: Sequence[str] = ()) -> Figure:
    """Return the accuracy in percent: the mean over all rows, or a nested mean over groups.

    Args:
        name: the figure's name.
        graded: at least one row.
        mean_of: groups of the nested mean, the outermost first; empty: the mean over all rows.
    """
    weights, parts = row_weights(graded, mean_of)
    correct = np.array([item.is_correct for item in graded], dtype=float)
    value, se = weighted_mean(correct, weights, parts, [item.row.video for item in graded])
    floor, answer = constant_floor([item.row for item in graded], weights)
    is_missing = [item.row.error is not None for item in graded]
    return Figure(
        *(name, 100 * value, len(graded)),
        n_correct=int(correct.sum()),
        n_invalid=sum(not item.is_valid for item in graded) - sum(is_missing),
        n_missing=sum(is_missing),
        se=None if se is None else 100 * se,
        floor=100 * floor,
        floor_answer=answer,
    )


def row_weights(graded: Sequence[Graded], mean_of: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's weight in a nested mean, and the number of its innermost group; both of shape (rows,)."""
    weights = np.zeros(len(graded))
    parts = np.zeros(len(graded), dtype=np.int64)
    n_parts = 0

    def fill(numbers: np.ndarray, names: Sequence[str], weight: float) -> None:
        nonlocal n_parts
        if not names:
            weights[numbers] = weight / len(numbers)
            parts[numbers] = n_parts
            n_parts += 1
            return
        below: dict[str, list[int]] = defaultdict(list)
        for number in numbers:
            below[graded[number].row.groups[names[0]]].append(number)
        for chosen in below.values():
            fill(np.array(chosen), names[1:], weight / len(below))

    fill(np.arange(len(graded)), mean_of, 1.0)
    return weights, parts


def constant_floor(rows: Sequence[ChoiceRow], weights: np.ndarray) -> tuple[float, str]:
    """Return the accuracy (0 to 1) of the best constant answer, and that answer.

    The constant is one answer for each kind of question (letter, yes or no, count). If the options are known, always
    choosing the option with a certain text also counts as a constant answer: in OVO-Bench's HLD, for example, every
    correct option reads "Unable to answer".

    Args:
        rows: rows with their correct answers.
        weights: (rows,), the weights of the rows in the score.
    """
    shares: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row, weight in zip(rows, weights, strict=True):
        shares[row.kind][row.answer] += float(weight)
        text = _answer_text(row)
        if text:
            shares[row.kind][f"the text {text[:_MAX_NAME]!r}"] += float(weight)
    # Ties go to the first in the alphabet (letters before texts), so that the order of the rows does not matter.
    best = [min(answers.items(), key=lambda item: (-round(item[1], 12), item[0])) for answers in shares.values()]
    return sum(share for _, share in best), " / ".join(answer for answer, _ in best)


def _answer_text(row: ChoiceRow) -> str:
    if row.kind != LETTER or not row.options:
        return ""
    number = ord(row.answer) - ord("A") if len(row.answer) == 1 else -1
    return row.options[number].strip().casefold() if 0 <= number < len(row.options) else ""


def _answered_only(graded: Sequence[Graded]) -> list[Figure]:
    """Return the accuracy over valid answers, as Video-MME's own code prints it; [] if all or none are valid."""
    answered = [item for item in graded if item.is_valid]
    if len(answered) == len(graded) or not answered:
        return []
    return [figure_of("answered rows only (as the benchmark's code counts)", answered)]
