"""Cuts the words of a batch into pieces, vectorised; only runs of words longer than the limit need a loop."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...captions.arrow import flat_times
from ...captions.segmentation import count_characters, is_unspaced

# Words whose first letter is a capital, or of a script without capitals.
CAPITAL_FIRST = r"^\P{L}*[\p{Lu}\p{Lo}]"
ALL_CAPITALS = r"^[^\p{Ll}\p{Lt}]*\p{Lu}[^\p{Ll}\p{Lt}]*$"
_SENTENCE_END = r"[.?!]$|[。？！．｡؟۔।။។][」』）”’]*$"
_UNMARKED = r"^[\p{Thai}\p{Lao}]"  # scripts that do not mark the end of a sentence


@dataclass(frozen=True)
class Words:
    """All words of a batch in flat arrays, row by row; within a row, ordered by their ends.

    Attributes:
        start_s, end_s: float64 of shape (words,).
        text: strings of shape (words,).
        row_of: int64 of shape (words,): the row of each word in the batch.
        faults: for rows whose words cannot be used, why; their words are left out.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    text: pa.StringArray
    row_of: np.ndarray
    faults: dict[int, str]


@dataclass(frozen=True)
class Pieces:
    """Disjoint pieces of consecutive words, in order: piece `i` has the words `first[i]` to `stop[i] - 1`.

    Attributes:
        first, stop: int64 of shape (pieces,).
        is_clip: bool of shape (pieces,); false for words before the first sentence start of a run.
    """

    first: np.ndarray
    stop: np.ndarray
    is_clip: np.ndarray


def flat_words(batch: pa.Table) -> Words:
    """Return the words of all rows, without blank words and without rows that have invalid times."""
    found = flat_times(batch["words"], needs_text=True)
    faults = {}
    for row, at in found.faults.items():
        number = at - int(np.searchsorted(found.row_of, row))
        faults[row] = (
            f"word {number} ({found.text[at].as_py()!r}) runs from {found.start_s[at]} to {found.end_s[at]} s: "
            "expected a word and an end after its start"
        )
    found = found.without(faults)
    found = dataclasses.replace(found, text=pc.utf8_trim_whitespace(found.text))
    found = found.only(pc.greater(pc.binary_length(found.text), 0).to_numpy(zero_copy_only=False))
    start_s, end_s, text, row_of = found.start_s, found.end_s, found.text, found.row_of
    if ((np.diff(end_s) < 0) & (np.diff(row_of) == 0)).any():  # overlapping captions
        order = np.lexsort((end_s, row_of))
        start_s, end_s, text = start_s[order], end_s[order], text.take(pa.array(order))
    return Words(start_s, end_s, text, row_of, faults)


def cut(words: Words, times: np.ndarray, max_s: float, max_gap_s: float, allowed: np.ndarray | None) -> Pieces:
    """Cut words into pieces: at silences, and where a piece would exceed the limit.

    Args:
        words: of a batch.
        times: float64 of shape (words,): the times between which silence is measured.
        max_s: longest piece in seconds, from the start of its first word to the end of its last.
        max_gap_s: a longer silence, in seconds, ends a run of words.
        allowed: indices of the words at which a clip may begin; `None`: any word.
    """
    n_words = len(times)
    is_break = np.ones(n_words, bool)
    is_break[1:] = (np.diff(words.row_of) != 0) | (np.diff(times) > max_gap_s)
    begins = np.flatnonzero(is_break)
    stops = np.append(begins[1:], n_words) if n_words else begins
    next_allowed = np.arange(n_words)  # for each word, the first word from it on that may begin a clip
    if allowed is not None:
        next_allowed = np.append(allowed, n_words)[np.searchsorted(allowed, next_allowed)]
    first = np.minimum(next_allowed[begins], stops)
    starts = np.flatnonzero(first < stops)  # runs that hold a clip
    is_long = words.end_s[stops[starts] - 1] - words.start_s[first[starts]] > max_s
    whole, long = starts[~is_long], starts[is_long]
    cuts = [_cut_run(words, next_allowed, (int(first[run]), int(stops[run])), max_s) for run in long]
    lead = np.flatnonzero(first > begins)
    firsts = [begins[lead], first[whole], *(cut[0] for cut in cuts)]
    ends = [first[lead], stops[whole], *(cut[1] for cut in cuts)]
    is_clip = [np.zeros(len(lead), bool), np.ones(len(whole), bool), *(cut[2] for cut in cuts)]
    order = np.argsort(np.concatenate(firsts))
    return Pieces(*(np.concatenate(parts)[order] for parts in (firsts, ends, is_clip)))


def _cut_run(
    words: Words, next_allowed: np.ndarray, run: tuple[int, int], max_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `first`, `stop` and `is_clip` of the pieces of a run that is longer than the limit."""
    at, stop = run
    first, ends, is_clip = [], [], []
    while at < stop:
        begin = min(int(next_allowed[at]), stop)
        if begin > at:
            first.append(at)
            ends.append(begin)
            is_clip.append(False)
        at = begin
        if at < stop:
            first.append(at)
            at = _last_within(words.end_s, (at, stop), words.start_s[at], max_s)
            ends.append(at)
            is_clip.append(True)
    return np.array(first, np.int64), np.array(ends, np.int64), np.array(is_clip, bool)


def _last_within(end_s: np.ndarray, run: tuple[int, int], start_s: float, max_s: float) -> int:
    """Return the index after the last word that ends within the limit, but at least `first + 1`."""
    first, stop = run
    at = first + int(np.searchsorted(end_s[first:stop], start_s + max_s, side="right"))
    # The limit is checked on the difference of times, whose rounding may differ from the sum above.
    while at < stop and end_s[at] - start_s <= max_s:
        at += 1
    while at > first + 1 and end_s[at - 1] - start_s > max_s:
        at -= 1
    return max(at, first + 1)


def sentence_starts(words: Words, capital: str) -> np.ndarray:
    """Return the indices of words that begin a sentence.

    Args:
        words: of a batch.
        capital: pattern that such a word must match, unless it is a video's first word.
    """
    is_first = np.ones(len(words.row_of), bool)
    is_first[1:] = np.diff(words.row_of) != 0
    is_capital = pc.match_substring_regex(words.text, capital).to_numpy(zero_copy_only=False)
    closes = pc.match_substring_regex(words.text, _SENTENCE_END).to_numpy(zero_copy_only=False)
    follows = np.zeros(len(is_first), bool)
    follows[1:] = closes[:-1]
    starts = is_first | (is_capital & follows)
    if (unspaced := is_unspaced(words.text)).any():
        at = np.flatnonzero(unspaced)
        starts[at] |= pc.match_substring_regex(words.text.take(pa.array(at)), _UNMARKED).to_numpy(zero_copy_only=False)
    return np.flatnonzero(starts)


def characters_of(text: pa.Array, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of characters of each piece, and whether its speed is measured in characters.

    Three characters of a Southeast Asian script count as one.
    """
    found = count_characters(text)
    if found is None:
        return np.zeros(len(pieces.first)), np.zeros(len(pieces.first), bool)
    sums = (np.concatenate([[0.0], np.cumsum(counts)]) for counts in found)
    unspaced, syllables, chars = (total[pieces.stop] - total[pieces.first] for total in sums)
    return syllables, unspaced * 2 > chars
