"""Win rates from a judge's verdicts in both orders, and their dependence on order, length and judge.

The win rate is (wins in ab + wins in ba) / 2N, as showlab/livecc computes it: a tie is a win for neither side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..predictions.file import RowSet
from ..predictions.rows import MODEL, OPPONENT, CommentaryRow, VerdictRow, text_hash
from ..suites import suite_of
from .figures import Figure, Score, incomplete_headline, incomplete_note
from .statistics import mean_at, weighted_mean
from .suspicion import Pair, suspicions
from .text_measures import is_empty, n_words, share, text_figures

WIN_RATE = "win rate"
_N_FIFTHS = 5
_EQUAL_LENGTH = 1.25  # largest ratio of two word counts that are called equal


class VerdictTextError(ValueError):
    """Raised if verdicts are about other texts than the given ones."""


@dataclass(frozen=True)
class Judged:
    """Both verdicts on one row.

    Attributes:
        key: the row's key.
        video: the row's video.
        ab: verdict with the model's text shown first.
        ba: verdict with the opponent's text shown first.
    """

    key: str
    video: str
    ab: VerdictRow
    ba: VerdictRow

    @property
    def value(self) -> float:
        """The row's win rate: 0, 0.5 or 1."""
        return ((self.ab.winner == MODEL) + (self.ba.winner == MODEL)) / 2

    @property
    def is_consistent(self) -> bool:
        """Whether both verdicts name the same winner."""
        return self.ab.winner == self.ba.winner


def both_orders(rows: Sequence[VerdictRow], repeat: int = 0) -> list[Judged]:
    """Return the rows that were judged in both orders; `repeat` chooses among verdicts asked several times."""
    found: dict[str, dict[str, VerdictRow]] = {}
    for row in rows:
        if row.repeat == repeat:
            found.setdefault(row.key, {})[row.order] = row
    return [Judged(key, pair["ab"].video, pair["ab"], pair["ba"]) for key, pair in found.items() if len(pair) == 2]


def score_verdicts(
    verdicts: RowSet[VerdictRow],
    model: RowSet[CommentaryRow] | None = None,
    opponent: RowSet[CommentaryRow] | None = None,
    others: Sequence[Pair] = (),
    incomplete: bool = False,
) -> Score:
    """Score a judge's verdicts.

    Args:
        verdicts: verdicts in both orders.
        model: the judged texts of the model, if at hand; they add figures by length and of the text.
        opponent: the texts they were compared with, if at hand.
        others: verdicts on other models against the same opponent, to detect verdicts filed under a wrong model.
        incomplete: show the headline of an incomplete set, with N in its name, instead of withholding it.

    Raises:
        VerdictTextError: if a verdict has the hash of another text, or judges a row that the texts lack.
        ValueError: if no row was judged in both orders.
    """
    check_texts(verdicts, model, MODEL)
    check_texts(verdicts, opponent, OPPONENT)
    judged = both_orders(verdicts.rows)
    if not judged:
        raise ValueError(f"{verdicts.source}: no row was judged in both orders, which the win rate needs")
    n_expected = verdicts.header.n_rows or suite_of(verdicts.header.suite).n_rows
    figures = _verdict_figures(verdicts, judged)
    texts = {row.key: row for row in model.rows} if model else {}
    opponent_texts = {row.key: row for row in opponent.rows} if opponent else {}
    if model and texts:
        figures += _by_length(judged, texts) + _equal_length(judged, texts, opponent_texts)
        figures += _empty_wins(judged, texts) + text_figures(model.rows)
    if opponent and opponent_texts:
        figures += [replace(item, name=f"opponent's {item.name}") for item in text_figures(opponent.rows)]
    is_complete = len(judged) == n_expected
    if not is_complete:
        figures[0] = incomplete_headline(figures[0], len(judged), n_expected, incomplete)
    notes = _verdict_notes(verdicts, len(judged), n_expected) + suspicions(Pair(verdicts, model), others)
    return Score(
        *(
            verdicts.header.suite or "verdicts",
            verdicts.header.protocol,
            verdicts.header.model,
            verdicts.source,
            figures,
        ),
        n_headline=3,
        n_expected=n_expected,
        is_complete=is_complete,
        notes=notes,
        series=_length_series(figures),
        details=asdict(verdicts.header),
    )


def _verdict_notes(verdicts: RowSet[VerdictRow], n_judged: int, n_expected: int) -> list[str]:
    """Return remarks on the verdicts for the user, one line each."""
    notes = list(verdicts.notes)
    n_keys = len({row.key for row in verdicts.rows})
    if n_judged < n_keys:
        notes.append(f"{n_keys - n_judged:,} rows were judged in one order only and are left out")
    if n_judged != n_expected:
        notes.append(incomplete_note(verdicts.source, n_judged, n_expected))
    if not all(row.model_hash and row.opponent_hash for row in verdicts.rows):
        notes.append(
            f"{verdicts.source} has no hashes of the judged texts: its verdicts may be about other texts than these"
        )
    return notes


def check_texts(verdicts: RowSet[VerdictRow], texts: RowSet[CommentaryRow] | None, whose: str) -> None:
    """Check that verdicts are about the given texts.

    Args:
        verdicts: verdicts, with or without hashes of the judged texts.
        texts: commentaries of one side; with `None`, nothing is checked.
        whose: the side, "model" or "opponent".

    Raises:
        VerdictTextError: if a hash does not match, or a judged row has no text.
    """
    if texts is None:
        return
    known = {row.key: row for row in texts.rows}
    missing = [row.key for row in verdicts.rows if row.key not in known]
    if missing:
        raise VerdictTextError(
            f"{verdicts.source} judges {len(set(missing)):,} rows that {texts.source} does not have, such as "
            f"{missing[0]!r}: give the texts that were judged"
        )
    hashes = [(row, row.model_hash if whose == MODEL else row.opponent_hash) for row in verdicts.rows]
    wrong = [row.key for row, known_hash in hashes if known_hash and known_hash != text_hash(known[row.key].pred or "")]
    if wrong:
        raise VerdictTextError(
            f"{verdicts.source} is not a judgement of {texts.source}: {len(wrong):,} of {len(hashes):,} verdicts have "
            f"the hash of another text, for example for {wrong[0]!r}; give the texts that were judged, or judge these "
            "texts"
        )


def _verdict_figures(verdicts: RowSet[VerdictRow], judged: list[Judged]) -> list[Figure]:
    n_invalid = sum(not verdict.is_valid for row in judged for verdict in (row.ab, row.ba))
    wins = sum((row.ab.winner == MODEL) + (row.ba.winner == MODEL) for row in judged)
    first = _rate(f"{WIN_RATE} shown first", judged, lambda row: row.ab.winner == MODEL)
    second = _rate(f"{WIN_RATE} shown second", judged, lambda row: row.ba.winner == MODEL)
    figures = [
        replace(_rate(WIN_RATE, judged, lambda row: row.value), n_correct=wins, n_invalid=n_invalid),
        first,
        second,
        _rate(
            "position bias (first minus second)",
            judged,
            lambda row: float(row.ab.winner == MODEL) - float(row.ba.winner == MODEL),
            counted=False,
        ),
        _rate("opponent's win rate", judged, lambda row: 1 - row.value - _ties(row)),
        _rate("ties", judged, _ties),
        _rate("same winner in both orders", judged, lambda row: row.is_consistent),
    ]
    agreeing = [row for row in judged if row.is_consistent and row.ab.winner in (MODEL, OPPONENT)]
    if agreeing:
        figures.append(_rate(f"{WIN_RATE} where both orders agree", agreeing, lambda row: row.value == 1))
    retest = _retest(verdicts.rows)
    return figures + ([retest] if retest else [])


def _ties(row: Judged) -> float:
    return sum(verdict.winner not in (MODEL, OPPONENT) for verdict in (row.ab, row.ba)) / 2


def _retest(rows: Sequence[VerdictRow]) -> Figure | None:
    """Return the share of repeated calls with the same winner; `None` if the judge was asked only once."""
    by_call: dict[tuple[str, str], dict[int, VerdictRow]] = {}
    for row in rows:
        by_call.setdefault((row.key, row.order), {})[row.repeat] = row
    calls = [call for call in by_call.values() if len(call) > 1]
    if not calls:
        return None
    same = [[call[repeat].winner == call[0].winner for repeat in call if repeat] for call in calls if 0 in call]
    videos = [call[0].video for call in calls if 0 in call]
    flat = [(value, video) for values, video in zip(same, videos, strict=True) for value in values]
    return share("same verdict when asked again", [value for value, _ in flat], [video for _, video in flat])


def _rate(name: str, judged: Sequence[Judged], value: Callable[[Judged], float], counted: bool = True) -> Figure:
    """Return the mean of a value over rows, in percent; `counted` also gives the sum, if all values are integers."""
    numbers = np.array([float(value(row)) for row in judged])
    n = len(numbers)
    mean, se = weighted_mean(numbers, np.full(n, 1 / n), np.zeros(n, dtype=np.int64), [row.video for row in judged])
    is_count = counted and bool((numbers == numbers.astype(int)).all())
    return Figure(
        *(name, 100 * mean, n), n_correct=int(numbers.sum()) if is_count else None, se=None if se is None else 100 * se
    )


def _by_length(judged: Sequence[Judged], texts: dict[str, CommentaryRow]) -> list[Figure]:
    """Return the win rate for each fifth of the rows by the model's word count, the shortest first."""
    if len(judged) < 2 * _N_FIFTHS:
        return []
    ordered = sorted(judged, key=lambda row: (n_words(texts[row.key].pred), row.key))
    figures = []
    for fifth in np.array_split(np.arange(len(ordered)), _N_FIFTHS):
        part = [ordered[number] for number in fifth]
        words = [n_words(texts[row.key].pred) for row in part]
        figures.append(_rate(f"{WIN_RATE}, {words[0]} to {words[-1]} words", part, lambda row: row.value))
    return figures


def _equal_length(
    judged: Sequence[Judged], texts: dict[str, CommentaryRow], opponent_texts: dict[str, CommentaryRow]
) -> list[Figure]:
    """Return the win rate at equal length: of rows with similar word counts, and from a line through all rows."""
    if not opponent_texts:
        return []
    pairs = [(n_words(texts[row.key].pred), n_words(opponent_texts[row.key].pred)) for row in judged]
    ratios = np.log([(ours + 1) / (theirs + 1) for ours, theirs in pairs])
    alike = [row for row, pair in zip(judged, pairs, strict=True) if max(pair) <= _EQUAL_LENGTH * min(pair)]
    figures = []
    if alike:
        figures.append(
            _rate(f"{WIN_RATE} at equal length (within {_EQUAL_LENGTH:g} times)", alike, lambda row: row.value)
        )
    values = np.array([row.value for row in judged])
    value, se = mean_at(values, ratios, 0.0, [row.video for row in judged])
    if value is not None:
        name = f"{WIN_RATE} at equal length (line through all rows)"
        figures.append(Figure(name, 100 * value, len(judged), se=None if se is None else 100 * se))
    return figures


def _empty_wins(judged: Sequence[Judged], texts: dict[str, CommentaryRow]) -> list[Figure]:
    empty = [row for row in judged if is_empty(texts[row.key].pred)]
    return [_rate(f"{WIN_RATE} of empty commentaries", empty, lambda row: row.value)] if empty else []


def _length_series(figures: Sequence[Figure]) -> dict[str, Any]:
    parts = [item for item in figures if item.name.startswith(f"{WIN_RATE}, ") and item.name.endswith(" words")]
    names = [item.name.removeprefix(f"{WIN_RATE}, ") for item in parts]
    rows = [{"name": name, "value": item.value, "se": item.se} for name, item in zip(names, parts, strict=True)]
    return {"win_rate_by_length": rows} if rows else {}
