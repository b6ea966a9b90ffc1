"""Turns caption lines into clean timed words, for whole columns of videos at once.

Each line is treated as in the LiveCC reference: lines with square brackets are skipped, a word equal to the one before
it in its line is dropped, and the line's duration is split evenly over its words, rounded to 0.1 s. In addition,
markup, speaker marks and music notes are removed, as are the lines that rolling captions repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import WORD, WORDS, flat_times
from .rolling import is_first_of_repeats, is_new_line, without_rolling_words
from .segmentation import is_unspaced, rows_without_spaces, with_spaces
from .spoken import clean_text
from .words import Lost

ROUND_S = 0.1  # as in the reference: interpolated word times are not more precise than this

_EDGE_MARKS = ".,;:!?\u2026\"'()\u201c\u201d\u2018\u2019-\u2013\u2014。、！？，；：「」『』（）"


@dataclass(frozen=True)
class CaptionLines:
    """The caption lines of many videos; an entry is a single word if the file has word times.

    Attributes:
        row_of: int64 (lines,), the video of each line; not decreasing.
        start_s, end_s: float64 (lines,), in seconds from what a player shows as 0:00.
        text: string array (lines,), with markup and line breaks as in the file.
        has_word_times: bool (lines,), whether an entry is a word with its own times; such entries are never treated as
            repeats.
        n_rows: number of videos.
    """

    row_of: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    text: pa.Array
    has_word_times: np.ndarray
    n_rows: int

    def only(self, at: np.ndarray) -> CaptionLines:
        """Return the lines at these indices, or selected by a bool mask (lines,)."""
        at = np.flatnonzero(at) if at.dtype == bool else at
        row_of, start_s, end_s = (values[at] for values in (self.row_of, self.start_s, self.end_s))
        return CaptionLines(row_of, start_s, end_s, self.text.take(pa.array(at)), self.has_word_times[at], self.n_rows)


def flat_lines(subtitles: pa.Array | pa.ChunkedArray) -> tuple[CaptionLines, dict[int, Lost]]:
    """Return the valid lines of a column of type `LINES`, and what each row lost."""
    lines = flat_times(subtitles)
    n_lines = np.bincount(lines.row_of, minlength=len(subtitles))
    n_bad = np.bincount(lines.row_of[~lines.is_sound], minlength=len(subtitles))
    lost = {
        row: Lost(
            int(n_bad[row]),
            int(n_lines[row]),
            f"a line runs from {lines.start_s[at]} to {lines.end_s[at]} s: expected an end after its start",
        )
        for row, at in lines.faults.items()
    }
    lines = lines.only(lines.is_sound)
    has_word_times = np.zeros(len(lines.text), bool)
    text = pc.fill_null(lines.text, "")
    return CaptionLines(lines.row_of, lines.start_s, lines.end_s, text, has_word_times, len(subtitles)), lost


def spread_lines(lines: CaptionLines, round_s: float = ROUND_S) -> pa.ListArray:
    """Return the cleaned words of caption lines, each line's duration split over its words.

    A line ends at the latest where the next one starts; lines with the same start share one time span. A word equal to
    the one before it in its line is dropped, as in the reference. Lines with equal times and text, which occur when
    captions are joined from a stream's segments, count once. Words with their own times keep them.

    Args:
        lines: the lines of all videos.
        round_s: step to which interpolated times are rounded, in seconds; 0 does not round.

    Returns:
        Array (n_rows,) of type `WORDS`.
    """
    lines = _without_repeats(_in_order(lines))
    tokens, line_of = _spoken_tokens(lines)
    group_of, group_start_s, group_end_s = _time_groups(lines)
    word_line = np.repeat(line_of, np.diff(tokens.offsets.to_numpy()))
    words = tokens.flatten()
    is_timed = lines.has_word_times[word_line]
    is_repeat = np.zeros(len(words), bool)
    if len(words) > 1:
        same = pc.equal(words.slice(1), words.slice(0, len(words) - 1)).to_numpy(zero_copy_only=False)
        is_repeat[1:] = same & (np.diff(word_line) == 0) & ~is_timed[1:]
    if is_repeat.any():
        is_repeat &= ~is_unspaced(words)  # unspaced scripts repeat a part within one word
        words, word_line, is_timed = words.filter(pa.array(~is_repeat)), word_line[~is_repeat], is_timed[~is_repeat]
    start_s, end_s = _spread(group_of[word_line], group_start_s, group_end_s)
    if round_s:
        spread = ~is_timed
        for times in (start_s, end_s):
            times[spread] = _rounded(times[spread], round_s)
    counts = np.bincount(lines.row_of[word_line], minlength=lines.n_rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    values = pa.StructArray.from_arrays([pa.array(start_s), pa.array(end_s), words], fields=list(WORD))
    return pa.ListArray.from_arrays(offsets, values, type=WORDS)


def rows_to_segment(lines: CaptionLines) -> np.ndarray:
    """Return the indices of the videos whose lines are mostly in a script without spaces between words."""
    are_lines = ~lines.has_word_times
    return rows_without_spaces(lines.text.filter(pa.array(are_lines)), lines.row_of[are_lines])


def count_distinct(words: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Count the distinct words in each row of a `WORDS` column, ignoring case and punctuation.

    Returns:
        int64 (rows,).
    """
    array = words.combine_chunks() if isinstance(words, pa.ChunkedArray) else words
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    spellings = pc.struct_field(array.flatten(), "word").dictionary_encode()
    bare = pc.utf8_trim(pc.utf8_lower(spellings.dictionary), _EDGE_MARKS).dictionary_encode()
    ids = bare.indices.to_numpy()[spellings.indices.to_numpy()].astype(np.int64)
    is_word = pc.not_equal(bare.dictionary, "").to_numpy(zero_copy_only=False)[ids] if len(ids) else np.empty(0, bool)
    row_of = np.repeat(np.arange(len(counts)), counts)[is_word]
    width = len(bare.dictionary) + 1
    found = pc.unique(pa.array(row_of * width + ids[is_word])).to_numpy()
    return np.bincount(found // width, minlength=len(counts))


def _in_order(lines: CaptionLines) -> CaptionLines:
    """Return the lines, sorted by start within each video."""
    if not ((np.diff(lines.start_s) < 0) & (np.diff(lines.row_of) == 0)).any():
        return lines
    return lines.only(np.lexsort((lines.start_s, lines.row_of)))


def _without_repeats(lines: CaptionLines) -> CaptionLines:
    """Return sorted lines without exact repeats."""
    if not ((np.diff(lines.start_s) == 0) & (np.diff(lines.row_of) == 0) & ~lines.has_word_times[1:]).any():
        return lines
    is_first = is_first_of_repeats(lines.row_of, lines.start_s, lines.end_s, lines.text)
    return lines.only(is_first | lines.has_word_times)


def _spoken_tokens(lines: CaptionLines) -> tuple[pa.ListArray, np.ndarray]:
    """Return the spoken words as lists of strings, and the index of the line that each list comes from."""
    text = clean_text(lines.text, lines.has_word_times)
    if pc.any(pc.match_substring(text, "\n")).as_py():
        shown = pc.split_pattern(text, "\n")
        line_of = np.repeat(np.arange(len(text)), np.diff(shown.offsets.to_numpy()))
        text = shown.flatten()
    else:
        line_of = np.arange(len(text))
    text = pc.utf8_trim_whitespace(text)
    text, line_of = _only(text, line_of, pc.not_equal(text, ""))
    is_new, rolls = is_new_line(text, line_of, lines.row_of)
    is_new |= lines.has_word_times[line_of]
    # A line with square brackets, such as [Music], is not speech.
    aside = pc.or_(pc.match_substring(text, "["), pc.match_substring(text, "]"))
    text, line_of = _only(text, line_of, pc.and_not(pa.array(is_new), aside))
    is_line = pa.array(~lines.has_word_times[line_of])
    if is_unspaced(text).any():
        text = pc.replace_with_mask(text, is_line, with_spaces(text.filter(is_line)))
    tokens = pc.utf8_split_whitespace(text)
    is_done = (lines.has_word_times | rolls)[line_of]
    return without_rolling_words(tokens, lines.row_of[line_of], is_done, lines.n_rows), line_of


def _only(text: pa.Array, numbers: np.ndarray, mask: pa.Array) -> tuple[pa.Array, np.ndarray]:
    return text.filter(mask), numbers[mask.to_numpy(zero_copy_only=False)]


def _time_groups(lines: CaptionLines) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group lines with the same start; return each line's group, and the groups' starts and ends."""
    n_lines = len(lines.row_of)
    is_first = np.ones(n_lines, bool)
    same_row = np.diff(lines.row_of) == 0
    is_first[1:] = ~(same_row & (np.diff(lines.start_s) == 0)) | lines.has_word_times[1:]
    first = np.flatnonzero(is_first)
    start_s = lines.start_s[first]
    end_s = np.maximum.reduceat(lines.end_s, first) if n_lines else lines.end_s
    if n_lines:
        has_next = (np.diff(lines.row_of[first]) == 0) & ~lines.has_word_times[first[:-1]]
        end_s[:-1][has_next] = np.minimum(end_s[:-1], start_s[1:])[has_next]
    return np.cumsum(is_first) - 1, start_s, end_s


def _spread(group_of: np.ndarray, group_start_s: np.ndarray, group_end_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and ends of words that split their group's time span evenly."""
    counts = np.bincount(group_of, minlength=len(group_start_s))
    step_s = ((group_end_s - group_start_s) / np.maximum(counts, 1))[group_of]
    within = np.arange(len(group_of)) - (np.cumsum(counts) - counts)[group_of]
    start_s = group_start_s[group_of]
    ends_group = within + 1 == counts[group_of]
    end_s = np.where(ends_group, group_end_s[group_of], start_s + (within + 1) * step_s)
    return start_s + within * step_s, end_s


def _rounded(times_s: np.ndarray, step_s: float) -> np.ndarray:
    """Round times to multiples of a step such as 0.1, with the same results as Python's `round`."""
    per_s = round(1 / step_s)
    scaled = times_s * per_s
    nearest = np.rint(scaled)
    # Scaling may itself round to a tie, so the exact remainder decides.
    ties = np.flatnonzero(np.abs(scaled - np.trunc(scaled)) == 0.5)
    if ties.size:
        times = times_s[ties]
        high = (times.view(np.int64) & ~np.int64(2**27 - 1)).view(np.float64)
        rest = (high * per_s - scaled[ties]) + (times - high) * per_s
        nearest[ties] = np.where(rest == 0, nearest[ties], scaled[ties] + np.copysign(0.5, rest))
    return nearest / per_s
