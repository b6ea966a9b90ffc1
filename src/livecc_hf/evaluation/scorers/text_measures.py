"""What can be said of a commentary without a judge and without times: length, emptiness, repetition."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..predictions.rows import CommentaryRow
from .figures import PERCENT, Figure
from .ratios import Ratio, figure_of

NGRAM, N_REPEATS = 6, 3


def n_words(text: str | None) -> int:
    """Return how many words a text has, parted by white space."""
    return len((text or "").split())


def is_empty(text: str | None) -> bool:
    """Return whether nothing is said: no text, or "..." alone, as the reference puts together an empty commentary."""
    return not (text or "").replace("...", "").strip()


def is_repeating(text: str | None, length: int = NGRAM, times: int = N_REPEATS) -> bool:
    """Return whether some run of `length` words comes at least `times` times."""
    words = (text or "").split()
    runs = Counter(tuple(words[start : start + length]) for start in range(len(words) - length + 1))
    return max(runs.values(), default=0) >= times


def normalised_words(text: str) -> list[str]:
    """Return a text's words in lower case, without punctuation."""
    return re.findall(r"[\w']+", text.casefold())


def text_ratios(rows: Sequence[CommentaryRow]) -> list[Ratio]:
    """Return words a second, words a commentary, and the shares of empty and of repeating texts."""
    words = np.array([n_words(row.pred) if not is_empty(row.pred) else 0 for row in rows], dtype=float)
    ones = np.ones(len(rows))
    return [
        Ratio("words a second", words, np.array([row.end_s - row.begin_s for row in rows], dtype=float), "words/s"),
        Ratio("words a commentary", words, ones, ""),
        Ratio("empty commentaries", np.array([is_empty(row.pred) for row in rows], dtype=float), ones),
        Ratio("repeating commentaries", np.array([is_repeating(row.pred) for row in rows], dtype=float), ones),
    ]


def text_figures(rows: Sequence[CommentaryRow]) -> list[Figure]:
    """Return the figures of `text_ratios`."""
    clusters = [row.video for row in rows]
    figures = [(ratio, figure_of(ratio, clusters)) for ratio in text_ratios(rows)]
    return [
        replace(figure, n_correct=int(ratio.parts.sum())) if figure.unit == PERCENT else figure
        for ratio, figure in figures
    ]


def share(name: str, values: Sequence[bool], clusters: Sequence[str]) -> Figure:
    """Return the share of rows for which something holds, in percent."""
    numbers = np.array(values, dtype=float)
    figure = figure_of(Ratio(name, numbers, np.ones(len(numbers))), clusters)
    return replace(figure, n_correct=int(numbers.sum()))
