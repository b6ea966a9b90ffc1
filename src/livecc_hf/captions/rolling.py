"""Finds the repeats in rolling captions: each cue begins with the end of the one before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

# A video's captions roll if at least this share of its cues begins with a repeat.
_ROLLING_SHARE = 0.5
_MOST_LINES = 4  # longest repeat that is looked for, in lines
_MOST_WORDS = 64  # and in words
_PROBED_CUES = 32  # cues of a video that decide whether its words roll
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def is_first_of_repeats(row_of: np.ndarray, start_s: np.ndarray, end_s: np.ndarray, text: pa.Array) -> np.ndarray:
    """Return which cues are not exact repeats (same video, times and text) of an earlier one.

    Args:
        row_of: int (cues,), the video of each cue.
        start_s, end_s: float64 (cues,), in seconds.
        text: string array (cues,).

    Returns:
        bool (cues,).
    """
    ids = text.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    keys = (ids, end_s, start_s, row_of)
    order = np.lexsort(keys)  # stable, so the first of equal cues comes first
    is_first = np.ones(len(ids), bool)
    is_first[order[1:]] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    return is_first


def is_new_line(
    text: pa.Array, cue_of: np.ndarray, row_of_cue: np.ndarray, always: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return which lines are new, and not still shown from the cue before.

    Args:
        text: string array (lines,), the lines of all cues, none blank.
        cue_of: int (lines,), the cue of each line; not decreasing.
        row_of_cue: int (cues,), the video of each cue; not decreasing.
        always: treat the captions as rolling even if few cues repeat lines.

    Returns:
        bool (lines,), whether each line is new; and bool (cues,), whether the captions of the cue's video roll.
    """
    offsets = np.searchsorted(cue_of, np.arange(len(row_of_cue) + 1))
    ids = text.dictionary_encode().indices.to_numpy()
    repeated = _overlaps(ids, offsets, row_of_cue, _MOST_LINES)
    rolls = np.full(len(row_of_cue), True) if always else _rolls(repeated, offsets, row_of_cue)[row_of_cue]
    repeated[~rolls] = 0
    return np.arange(len(text)) - offsets[cue_of] >= repeated[cue_of], rolls


def without_rolling_words(tokens: pa.ListArray, row_of: np.ndarray, is_exempt: np.ndarray, n_rows: int) -> pa.ListArray:
    """Remove the repeated words of captions that roll word by word, in one line per cue.

    Args:
        tokens: list array (cues,), the words of each cue.
        row_of: int (cues,), the video of each cue; not decreasing.
        is_exempt: bool (cues,), cues that are not checked for rolling.
        n_rows: number of videos.

    Returns:
        List array (cues,).
    """
    rank = np.arange(len(row_of)) - np.searchsorted(row_of, row_of)  # of each cue within its video
    probed = np.flatnonzero((rank < _PROBED_CUES) & ~is_exempt)
    rolling = _rolling_rows(tokens.take(pa.array(probed)), row_of[probed], n_rows)
    rolling_cues = np.flatnonzero(rolling[row_of])
    if not rolling_cues.size:
        return tokens
    chosen = tokens.take(pa.array(rolling_cues))
    offsets = chosen.offsets.to_numpy()
    repeated = np.zeros(len(tokens), np.int64)
    repeated[rolling_cues] = _overlaps(_word_ids(chosen), offsets, row_of[rolling_cues], _MOST_WORDS)
    counts = np.diff(tokens.offsets.to_numpy())
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = within >= np.repeat(repeated, counts)
    new_offsets = np.concatenate([[0], np.cumsum(counts - repeated)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(new_offsets), tokens.flatten().filter(pa.array(keep)))


def _rolling_rows(tokens: pa.ListArray, row_of: np.ndarray, n_rows: int) -> np.ndarray:
    offsets = tokens.offsets.to_numpy()
    repeated = _overlaps(_word_ids(tokens), offsets, row_of, _MOST_WORDS)
    # A single repeated word is coincidence, unless the previous cue has no other.
    n_before = np.concatenate([[0], np.diff(offsets)])[:-1]
    repeated[(repeated == 1) & (n_before > 1)] = 0
    rolls = _rolls(repeated, offsets, row_of)
    return np.pad(rolls, (0, n_rows - len(rolls)))


def _word_ids(tokens: pa.ListArray) -> np.ndarray:
    return tokens.flatten().dictionary_encode().indices.to_numpy()


def _overlaps(ids: np.ndarray, offsets: np.ndarray, row_of: np.ndarray, most: int) -> np.ndarray:
    """Return the length of the longest prefix of each list that is a suffix of the list before it.

    Args:
        ids: int (units,), equal for equal units (words or lines).
        offsets: int (lists + 1,), the start of each list in `ids`, and the end.
        row_of: int (lists,), the video of each list; only lists of the same video are compared.
        most: longest overlap to look for, in units.

    Returns:
        int64 (lists,), in units.
    """
    # Runs of units are compared by polynomial rolling hashes, modulo 2**64.
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
    """Return whether the captions of each video roll; bool (largest row + 1,)."""
    filled = np.diff(offsets) > 0
    is_pair = np.zeros(len(repeated), bool)
    is_pair[1:] = filled[1:] & filled[:-1] & (np.diff(row_of) == 0)
    n_rows = int(row_of.max(initial=-1)) + 1
    pairs = np.bincount(row_of[is_pair], minlength=n_rows)
    hits = np.bincount(row_of[is_pair & (repeated > 0)], minlength=n_rows)
    return (hits >= _ROLLING_SHARE * pairs) & (hits > 0)
