"""Detects verdicts that seem to be filed under the wrong texts; needed for files without text hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..predictions.file import RowSet
from ..predictions.rows import MODEL, CommentaryRow, VerdictRow
from .text_measures import is_empty, n_words

# A judge rarely prefers an empty text, so a higher share of wins is not chance.
_MIN_EMPTY, _MAX_EMPTY_WINS = 10, 0.2
# Verdicts on different texts agree in about two of three calls; those of a judge asked again, in about 93 of 100.
_MAX_AGREEMENT, _MIN_CALLS, _DIFFERENT_TEXTS = 0.85, 50, 0.5


class Pair(NamedTuple):
    """Verdicts and the texts that they are said to be about.

    Attributes:
        verdicts: a judge's verdicts.
        texts: the model's commentaries; `None` if they are not at hand.
    """

    verdicts: RowSet[VerdictRow]
    texts: RowSet[CommentaryRow] | None


def suspicions(pair: Pair, others: Sequence[Pair]) -> list[str]:
    """Return the reasons why verdicts seem to be about other texts, one line each.

    Args:
        pair: the verdicts and their texts.
        others: verdicts on other models against the same opponent.
    """
    found = _empty_wins(pair)
    for other in others:
        found += _same_as(pair, other)
    return found


def _empty_wins(pair: Pair) -> list[str]:
    if pair.texts is None:
        return []
    empty = {row.key for row in pair.texts.rows if is_empty(row.pred)}
    of_empty = [row.winner == MODEL for row in pair.verdicts.rows if row.key in empty]
    of_others = [row.winner == MODEL for row in pair.verdicts.rows if row.key not in empty]
    if len(of_empty) < _MIN_EMPTY or np.mean(of_empty) <= _MAX_EMPTY_WINS:
        return []
    return [
        f"suspect: {len(empty):,} commentaries in {pair.texts.source} are empty, and yet they win "
        f"{100 * np.mean(of_empty):.1f} % of the verdicts in {pair.verdicts.source} (the others: "
        f"{100 * np.mean(of_others) if of_others else 0:.1f} %): these verdicts seem to be about other texts"
    ]


def _same_as(pair: Pair, other: Pair) -> list[str]:
    theirs = {row.id: row for row in other.verdicts.rows}
    shared = [(row, theirs[row.id]) for row in pair.verdicts.rows if row.id in theirs]
    if len(shared) < _MIN_CALLS or not _texts_differ(pair.texts, other.texts):
        return []
    agreement = float(np.mean([ours.winner == others.winner for ours, others in shared]))
    if agreement <= _MAX_AGREEMENT:
        return []
    lines = [
        f"suspect: {100 * agreement:.1f} % of the verdicts in {pair.verdicts.source} equal those in "
        f"{other.verdicts.source}, though the texts differ: one of the files seems to judge the other's texts"
    ]
    if pair.texts is None or other.texts is None:
        return lines
    own, foreign = _length_correlation(pair, pair.texts), _length_correlation(pair, other.texts)
    if own is not None and foreign is not None and abs(foreign) > 2 * abs(own):
        lines.append(
            f"suspect: the verdicts in {pair.verdicts.source} correlate with the lengths of the texts in "
            f"{other.texts.source} ({foreign:.2f}) rather than with those of their own texts ({own:.2f})"
        )
    return lines


def _texts_differ(texts: RowSet[CommentaryRow] | None, others: RowSet[CommentaryRow] | None) -> bool:
    """Return whether two sets of texts differ in most rows; assumed if one of them is not at hand."""
    if texts is None or others is None:
        return True
    theirs = {row.key: row.pred for row in others.rows}
    shared = [row.pred != theirs[row.key] for row in texts.rows if row.key in theirs]
    return bool(shared) and float(np.mean(shared)) > _DIFFERENT_TEXTS


def _length_correlation(pair: Pair, texts: RowSet[CommentaryRow]) -> float | None:
    """Return the correlation of wins with the log of the texts' word counts; `None` if it is undefined."""
    words = {row.key: n_words(row.pred) for row in texts.rows}
    rows = [row for row in pair.verdicts.rows if row.key in words]
    lengths = np.log1p([words[row.key] for row in rows])
    wins = np.array([row.winner == MODEL for row in rows], dtype=float)
    if len(rows) < 2 or lengths.std() == 0 or wins.std() == 0:
        return None
    return float(np.corrcoef(lengths, wins)[0, 1])
