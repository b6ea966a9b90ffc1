"""Finds what rolling captions show again: each begins with lines, or words, that the one before ended with."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

# Captions roll where at least this share of them begins with what the one before ended with.
_ROLLING_SHARE = 0.5
_MOST_LINES = 4  # shown at a time
_MOST_WORDS = 64
_PROBED_CUES = 32  # of a video, to see whether its words roll
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def is_first_of_repeats(row_of: np.ndarray, start_s: np.ndarray, end_s: np.ndarray, text: pa.Array) -> np.ndarray:
    """Say which captions come for the first time: others have the same times and text as one before.

    Args:
        row_of: int, shape (captions,): number of the video.
        start_s, end_s: float64, shape (captions,).
        text: string array of (captions,).

    Returns:
        bool, shape (captions,).
    """
    ids = text.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    keys = (ids, end_s, start_s, row_of)
    order = np.lexsort(keys)  # stable
    is_first = np.ones(len(ids), bool)
    is_first[order[1:]] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    return is_first


def is_new_line(
    text: pa.Array, cue_of: np.ndarray, row_of_cue: np.ndarray, always: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Say which of the lines that captions show are not shown since the caption before.

    Args:
        text: string array of (lines,), the lines of all captions, none blank.
        cue_of: int, shape (lines,): number of the caption a line is in; not decreasing.
        row_of_cue: int, shape (captions,): number of the video; not decreasing.
        always: captions roll, however seldom they repeat lines.

    Returns:
        bool of shape (lines,), and bool of shape (captions,): whether the captions of its video roll.
    """
    offsets = np.searchsorted(cue_of, np.arange(len(row_of_cue) + 1))
    ids = text.dictionary_encode().indices.to_numpy()
    repeated = _overlaps(ids, offsets, row_of_cue, _MOST_LINES)
    rolls = np.full(len(row_of_cue), True) if always else _rolls(repeated, offsets, row_of_cue)[row_of_cue]
    repeated[~rolls] = 0
    return np.arange(len(text)) - offsets[cue_of] >= repeated[cue_of], rolls


def without_rolling_words(tokens: pa.ListArray, row_of: np.ndarray, is_exempt: np.ndarray, n_rows: int) -> pa.ListArray:
    """Remove the words that captions repeat where they roll word by word, in one line each.

    Args:
        tokens: the words of each caption, list array of (captions,).
        row_of: int, shape (captions,): number of the video; not decreasing.
        is_exempt: bool, shape (captions,): repeats nothing.
        n_rows: number of videos.

    Returns:
        List array of (captions,).
    """
    rank = np.arange(len(row_of)) - np.searchsorted(row_of, row_of)
    probed = np.flatnonzero((rank < _PROBED_CUES) & ~is_exempt)
    rolling = _rolling_rows(tokens.take(pa.array(probed)), row_of[probed], n_rows)
    mine = np.flatnonzero(rolling[row_of])
    if not mine.size:
        return tokens
    chosen = tokens.take(pa.array(mine))
    offsets = chosen.offsets.to_numpy()
    repeated = np.zeros(len(tokens), np.int64)
    repeated[mine] = _overlaps(_word_ids(chosen), offsets, row_of[mine], _MOST_WORDS)
    counts = np.diff(tokens.offsets.to_numpy())
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = within >= np.repeat(repeated, counts)
    new_offsets = np.concatenate([[0], np.cumsum(counts - repeated)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(new_offsets), tokens.flatten().filter(pa.array(keep)))


def _rolling_rows(tokens: pa.ListArray, row_of: np.ndarray, n_rows: int) -> np.ndarray:
    offsets = tokens.offsets.to_numpy()
    repeated = _overlaps(_word_ids(tokens), offsets, row_of, _MOST_WORDS)
    # One common word is chance, unless it is all that the caption before had.
    before = np.concatenate([[0], np.diff(offsets)])[:-1]
    repeated[(repeated == 1) & (before > 1)] = 0
    rolls = _rolls(repeated, offsets, row_of)
    return np.pad(rolls, (0, n_rows - len(rolls)))


def _word_ids(tokens: pa.ListArray) -> np.ndarray:
    return tokens.flatten().dictionary_encode().indices.to_numpy()


def _overlaps(ids: np.ndarray, offsets: np.ndarray, row_of: np.ndarray, most: int) -> np.ndarray:
    """Return with how many of the units that the list before ends with each list begins: the most that fit.

    Args:
        ids: int, shape (units,): equal for equal units.
        offsets: int, shape (lists + 1,): where each list begins in `ids`.
        row_of: int, shape (lists,): only lists of the same row are compared.
        most: units, at most.

    Returns:
        int64, shape (lists,).
    """
    # Stretches are compared by their hashes, sums of id times a power of their place, modulo 2**64.
    with np.errstate(over="ignore"):
        mixed = (ids.astype(np.uint64) + np.uint64(1)) * _HASH_FACTOR
        mixed ^= mixed >> np.uint64(29)
        powers = np.multiply.accumulate(np.full(len(ids) + 1, _HASH_FACTOR))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * powers[: len(ids)])])
        sizes = np.diff(offsets)
        longest = np.zeros(len(sizes), np.int64)
        if len(sizes):
            longest[1:] = np.where(np.diff(row_of) == 0, np.minimum(sizes[1:], sizes[:-1]), 0)
        best = np.zeros(len(sizes), np.int64)
        for size in range(1, min(most, int(longest.max(initial=0))) + 1):
            lists = np.flatnonzero(longest >= size)
            at = offsets[lists]
            tail, head = sums[at] - sums[at - size], sums[at + size] - sums[at]
            best[lists[tail * powers[size - 1] == head]] = size
    return best


def _rolls(repeated: np.ndarray, offsets: np.ndarray, row_of: np.ndarray) -> np.ndarray:
    """Say of which rows the captions roll; bool, shape (rows,)."""
    filled = np.diff(offsets) > 0
    is_pair = np.zeros(len(repeated), bool)
    is_pair[1:] = filled[1:] & filled[:-1] & (np.diff(row_of) == 0)
    n_rows = int(row_of.max(initial=-1)) + 1
    pairs = np.bincount(row_of[is_pair], minlength=n_rows)
    hits = np.bincount(row_of[is_pair & (repeated > 0)], minlength=n_rows)
    return (hits >= _ROLLING_SHARE * pairs) & (hits > 0)
