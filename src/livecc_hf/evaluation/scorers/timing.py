"""Measures how well a commentary is timed against what a person said. Formulas: docs/evaluation.md.

The measures here are defined by this package; published ones are in `livestar.py` and `ovo_timing.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..predictions.rows import CommentaryRow, SpokenSpan
from .figures import Figure
from .ratios import Ratio, ratio_figure
from .statistics import ratio_of_sums
from .text_measures import NGRAM, n_words, normalised_words

PAUSE_S = 1.0  # a longer silence ends an utterance
MAX_ONSET_ERROR_S = 10.0  # also if the model says nothing
MATCH_WINDOW_S, MATCH_F1, MATCH_WORDS = 15.0, 0.3, 3
REPEAT_OVERLAP = 0.8
_SENTENCE_ENDS = (".", "?", "!")


@dataclass(frozen=True)
class SpeakingCounts:
    """Numbers of seconds of a clip by who speaks in them.

    Attributes:
        both: seconds in which both the model and the reference speak.
        model_only: seconds in which only the model speaks.
        reference_only: seconds in which only the reference speaks.
        neither: seconds in which both are silent.
    """

    both: int
    model_only: int
    reference_only: int
    neither: int


def speaking_seconds(spans: Sequence[SpokenSpan], begin_s: float, end_s: float) -> np.ndarray:
    """Return which seconds of a clip have speech.

    Args:
        spans: what is said and when; spans without words are ignored.
        begin_s: start of the clip; second k is [begin_s + k, begin_s + k + 1).
        end_s: end of the clip.

    Returns:
        bool of shape (ceil(end_s - begin_s),).
    """
    n_seconds = max(math.ceil(round(end_s - begin_s, 6)), 0)
    speaking = np.zeros(n_seconds, dtype=bool)
    for span in spans:
        if not span.text.strip():
            continue
        first, last = span.start_s - begin_s, span.end_s - begin_s
        # A span that ends exactly at the start of a second is not in that second; a span of length 0 is in its second.
        stop = max(math.ceil(round(last, 6)), math.floor(round(first, 6)) + 1)
        speaking[max(math.floor(round(first, 6)), 0) : max(stop, 0)] = True
    return speaking


def speaking_counts(row: CommentaryRow) -> SpeakingCounts:
    """Return the numbers of seconds of a clip by who speaks in them."""
    ours = speaking_seconds(row.turns, row.begin_s, row.end_s)
    theirs = speaking_seconds(row.reference, row.begin_s, row.end_s)
    return SpeakingCounts(
        int((ours & theirs).sum()),
        int((ours & ~theirs).sum()),
        int((~ours & theirs).sum()),
        int((~ours & ~theirs).sum()),
    )


def utterances(spans: Sequence[SpokenSpan], at_sentences: bool = False) -> list[SpokenSpan]:
    """Return the utterances: spans joined across pauses of at most `PAUSE_S`.

    Args:
        spans: what is said, in order of time.
        at_sentences: also end an utterance after ".", "?" or "!".
    """
    joined: list[SpokenSpan] = []
    for span in spans:
        if not span.text.strip():
            continue
        last = joined[-1] if joined else None
        ends = at_sentences and last is not None and last.text.endswith(_SENTENCE_ENDS)
        if last is not None and span.start_s - last.end_s <= PAUSE_S and not ends:
            end_s = max(last.end_s, span.end_s)
            joined[-1] = SpokenSpan(last.start_s, end_s, f"{last.text} {span.text.strip()}")
        else:
            joined.append(SpokenSpan(span.start_s, span.end_s, span.text.strip()))
    return joined


def sentences(reference: Sequence[SpokenSpan]) -> list[SpokenSpan]:
    """Return the sentences of a reference: its spans with words; if all are single words, these are joined."""
    if all(n_words(span.text) <= 1 for span in reference):
        return utterances(reference, at_sentences=True)
    return [span for span in reference if span.text.strip()]


def onset_errors(turns: Sequence[SpokenSpan], reference: Sequence[SpokenSpan]) -> list[float]:
    """Return the seconds from the start of each reference utterance to the nearest start of the model's, at most 10."""
    ours = np.array([item.start_s for item in utterances(turns)])
    starts = [item.start_s for item in utterances(reference)]
    return [float(min(np.abs(ours - start).min(initial=MAX_ONSET_ERROR_S), MAX_ONSET_ERROR_S)) for start in starts]


def lags(turns: Sequence[SpokenSpan], reference: Sequence[SpokenSpan]) -> list[float | None]:
    """Return the lag of each of the model's sentences behind the matching sentence of the reference.

    A sentence matches the reference sentence with the highest word F1 among those that start within 15 s of it, if that
    F1 is at least 0.3. Sentences of the model with fewer than three words are left out.

    Returns:
        For each sentence, its start minus the start of the matching sentence, in seconds; `None` without a match.
    """
    theirs = [(item.start_s, Counter(normalised_words(item.text))) for item in sentences(reference)]
    found = []
    for item in utterances(turns, at_sentences=True):
        words = Counter(normalised_words(item.text))
        if words.total() < MATCH_WORDS:
            continue
        near = [
            (_word_f1(words, other), -abs(item.start_s - start), start)
            for start, other in theirs
            if abs(item.start_s - start) <= MATCH_WINDOW_S
        ]
        score, _, start = max(near, default=(0.0, 0.0, 0.0))
        found.append(item.start_s - start if score >= MATCH_F1 else None)
    return found


def _word_f1(a: Counter[str], b: Counter[str]) -> float:
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 0.0


def repeated_turns(turns: Sequence[SpokenSpan]) -> tuple[int, int]:
    """Return the number of spoken turns that repeat an earlier turn, and the number of spoken turns.

    A turn repeats an earlier one if their words are equal without case and punctuation, or if it has at least six words
    and at least 0.8 of its 6-grams occur in the earlier turn.
    """
    seen: list[tuple[list[str], set[tuple[str, ...]]]] = []
    n_repeated = 0
    for turn in turns:
        words = normalised_words(turn.text)
        if not words:
            continue
        ngrams = {tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)}
        n_repeated += any(
            words == earlier or (ngrams and len(ngrams & earlier_ngrams) >= REPEAT_OVERLAP * len(ngrams))
            for earlier, earlier_ngrams in seen
        )
        seen.append((words, ngrams))
    return n_repeated, len(seen)


def timing_ratios(rows: Sequence[CommentaryRow]) -> list[Ratio]:
    """Return the timing figures that are ratios of sums, for commentaries with turns and a reference with times."""
    return _ratios(rows, [lags(row.turns, row.reference) for row in rows])


def _ratios(rows: Sequence[CommentaryRow], row_lags: Sequence[Sequence[float | None]]) -> list[Ratio]:
    """Return the ratios of `timing_ratios`; `row_lags` are the lags of each row's sentences."""
    words, reference_words = _total_words([row.turns for row in rows]), _total_words([row.reference for row in rows])
    repeated = np.array([repeated_turns(row.turns) for row in rows], dtype=float).reshape(-1, 2)
    return [
        *_speaking_ratios(rows),
        _onset_ratio(rows),
        Ratio("sentences like one of the reference", _lengths(_known(row_lags)), _lengths(row_lags)),
        Ratio("words for each of the reference's", words, reference_words, ""),
        Ratio("repeated turns", repeated[:, 0], repeated[:, 1]),
    ]


def _speaking_ratios(rows: Sequence[CommentaryRow]) -> list[Ratio]:
    counts = [speaking_counts(row) for row in rows]
    both, neither = (np.array([getattr(item, name) for item in counts], dtype=float) for name in ("both", "neither"))
    ours = both + [item.model_only for item in counts]
    theirs = both + [item.reference_only for item in counts]
    silent = neither + [item.model_only for item in counts]
    return [
        Ratio("speak F1", 2 * both, ours + theirs),
        Ratio("speak precision", both, ours),
        Ratio("speak recall", both, theirs),
        Ratio("silence kept", neither, silent),
    ]


def _onset_ratio(rows: Sequence[CommentaryRow]) -> Ratio:
    onsets = [onset_errors(row.turns, row.reference) for row in rows]
    return Ratio("onset error", np.array([sum(item) for item in onsets]), _lengths(onsets), "s")


def _lengths(lists: Sequence[Sequence[object]]) -> np.ndarray:
    return np.array([len(item) for item in lists], dtype=float)


def _known(row_lags: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[value for value in values if value is not None] for values in row_lags]


def _total_words(texts: Sequence[Sequence[SpokenSpan]]) -> np.ndarray:
    return np.array([sum(n_words(span.text) for span in spans) for spans in texts], dtype=float)


def timing_figures(rows: Sequence[CommentaryRow]) -> list[Figure]:
    """Return all timing figures of commentaries with turns and a reference with times."""
    clusters = [row.video for row in rows]
    row_lags = [lags(row.turns, row.reference) for row in rows]
    ratios = {item.name: ratio_figure(item, clusters) for item in _ratios(rows, row_lags)}
    for name, floor in _always_speaking(rows, clusters).items():
        ratios[name] = replace(ratios[name], floor=floor, floor_answer="always speaking")
    figures = list(ratios.values())
    n_before = figures.index(ratios["onset error"]) + 1
    lag_s = [value for values in _known(row_lags) for value in values]
    median = Figure("lag (median)", float(np.median(lag_s)) if lag_s else None, len(rows), "s")
    lengths_s = np.array([row.end_s - row.begin_s for row in rows])
    rate, se = ratio_of_sums(_total_words([row.reference for row in rows]), lengths_s, clusters)
    theirs = Figure("reference's words a second", rate, len(rows), "words/s", se=se)
    return [*figures[:n_before], median, figures[n_before], theirs, *figures[n_before + 1 :]]


def _always_speaking(rows: Sequence[CommentaryRow], clusters: Sequence[str]) -> dict[str, float | None]:
    """Return the values that a commentary gets that speaks all the time, by figure name."""
    constant = [replace(row, turns=[SpokenSpan(row.begin_s, row.end_s, "x")]) for row in rows]
    figures = [ratio_figure(item, clusters) for item in (*_speaking_ratios(constant), _onset_ratio(constant))]
    return {item.name: item.value for item in figures if item.name != "silence kept"}


def speed_figures(rows: Sequence[CommentaryRow]) -> list[Figure]:
    """Return latency and real-time factor of the rows that recorded them."""
    latencies = [value for row in rows for value in row.latencies_s]
    timed = [row for row in rows if row.work_s is not None]
    figures = []
    for name, q in (("latency (median)", 50), ("latency (95th percentile)", 95)):
        if latencies:
            figures.append(Figure(name, float(np.percentile(latencies, q)), len(rows), "s"))
    if timed:
        work = np.array([row.work_s for row in timed], dtype=float)
        lengths_s = np.array([row.end_s - row.begin_s for row in timed])
        value, se = ratio_of_sums(work, lengths_s, [row.video for row in timed])
        figures.append(Figure("real-time factor", value, len(timed), "", se=se))
    return figures
