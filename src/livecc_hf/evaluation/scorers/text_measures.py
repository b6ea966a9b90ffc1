"""What can be said of a commentary without a judge and without times: length, emptiness, repetition."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..predictions.rows import CommentaryRow
from .figures import Figure
from .statistics import ratio_of_sums, weighted_mean

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


def text_figures(rows: Sequence[CommentaryRow]) -> list[Figure]:
    """Return the share of empty and of repeating texts, words a second, and words a clip."""
    clusters = [row.video for row in rows]
    words = np.array([n_words(row.pred) if not is_empty(row.pred) else 0 for row in rows], dtype=float)
    lengths_s = np.array([row.end_s - row.begin_s for row in rows], dtype=float)
    rate, rate_se = ratio_of_sums(words, lengths_s, clusters)
    return [
        Figure("words a second", rate, len(rows), "words/s", se=rate_se),
        _mean("words a commentary", words, clusters),
        share("empty commentaries", [is_empty(row.pred) for row in rows], clusters),
        share("repeating commentaries", [is_repeating(row.pred) for row in rows], clusters),
    ]


def share(name: str, values: Sequence[bool], clusters: Sequence[str]) -> Figure:
    """Return the share of rows for which something holds, in percent."""
    numbers = np.array(values, dtype=float)
    figure = _mean(name, numbers, clusters)
    se = None if figure.se is None else 100 * figure.se
    return Figure(name, 100 * figure.value, len(numbers), n_correct=int(numbers.sum()), se=se)


def _mean(name: str, values: np.ndarray, clusters: Sequence[str]) -> Figure:
    n = len(values)
    value, se = weighted_mean(values, np.full(n, 1 / n), np.zeros(n, dtype=np.int64), clusters)
    return Figure(name, value, n, "", se=se)
