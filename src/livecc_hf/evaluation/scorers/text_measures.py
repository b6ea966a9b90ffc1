"""Measures of a commentary's text that need neither judge nor times: length, emptiness, repetition."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..predictions.rows import CommentaryRow
from .figures import PERCENT, Figure
from .ratios import Ratio, ratio_figure

NGRAM, N_REPEATS = 6, 3


def n_words(text: str | None) -> int:
    """Return the number of words in a text, split at whitespace."""
    return len((text or "").split())


def is_empty(text: str | None) -> bool:
    """Return whether a commentary says nothing: it is empty, or "..." (the reference's text for a silent clip)."""
    return not (text or "").replace("...", "").strip()


def is_repeating(text: str | None, length: int = NGRAM, times: int = N_REPEATS) -> bool:
    """Return whether some n-gram of `length` words occurs at least `times` times."""
    words = (text or "").split()
    ngrams = Counter(tuple(words[start : start + length]) for start in range(len(words) - length + 1))
    return max(ngrams.values(), default=0) >= times


def normalised_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"[\w']+", text.casefold())


def text_ratios(rows: Sequence[CommentaryRow]) -> list[Ratio]:
    """Return words per second, words per commentary, and the shares of empty and of repeating commentaries."""
    words = np.array([n_words(row.pred) if not is_empty(row.pred) else 0 for row in rows], dtype=float)
    ones = np.ones(len(rows))
    return [
        Ratio("words a second", words, np.array([row.end_s - row.begin_s for row in rows], dtype=float), "words/s"),
        Ratio("words a commentary", words, ones, ""),
        Ratio("empty commentaries", np.array([is_empty(row.pred) for row in rows], dtype=float), ones),
        Ratio("repeating commentaries", np.array([is_repeating(row.pred) for row in rows], dtype=float), ones),
    ]


def text_figures(rows: Sequence[CommentaryRow]) -> list[Figure]:
    """Return the ratios of `text_ratios` as figures."""
    clusters = [row.video for row in rows]
    figures = [(ratio, ratio_figure(ratio, clusters)) for ratio in text_ratios(rows)]
    return [
        replace(figure, n_correct=int(ratio.parts.sum())) if figure.unit == PERCENT else figure
        for ratio, figure in figures
    ]


def share(name: str, values: Sequence[bool], clusters: Sequence[str]) -> Figure:
    """Return the share of rows whose value is true, in percent."""
    numbers = np.array(values, dtype=float)
    figure = ratio_figure(Ratio(name, numbers, np.ones(len(numbers))), clusters)
    return replace(figure, n_correct=int(numbers.sum()))
