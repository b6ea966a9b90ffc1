"""The raw content of a caption file: text with times, and the error for a file that cannot be used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .words import Lost


class CaptionError(ValueError):
    """A caption file that cannot be used.

    Attributes:
        reason: "no_captions" (the file does not exist), "empty_captions", "corrupt_captions" or "caption_encoding".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.reason, str(self))  # so that it can be pickled between processes


class TimedText(NamedTuple):
    """Pieces of text with times, each a line or a word.

    Attributes:
        start_s, end_s: float64 (pieces,), in seconds.
        text: string array (pieces,), with markup and line breaks as in the file.
        has_word_times: bool (pieces,), whether a piece is a word with its own times; otherwise it is a line.
        lost: the pieces that were skipped as invalid; `None` if there are none.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    text: pa.Array
    has_word_times: np.ndarray
    lost: Lost | None = None


def words_with_ends(
    begin_s: np.ndarray, limit_s: np.ndarray, texts: pa.Array, max_word_s: float, lost: Lost | None = None
) -> TimedText:
    """Return words with known starts; each ends at the next start, its cue's end or after `max_word_s`.

    Args:
        begin_s: float64 (words,), the start of each word, in seconds.
        limit_s: float64 (words,), the end of each word's cue, in seconds.
        texts: string array (words,); blank ones are left out, and one of several words may last as many times longer.
        max_word_s: longest duration of a word, in seconds.
        lost: passed through to the result.
    """
    texts = pc.utf8_trim_whitespace(texts)
    is_text = pc.not_equal(texts, "")
    texts, mask = texts.filter(is_text), is_text.to_numpy(zero_copy_only=False)
    begin_s, limit_s = begin_s[mask], limit_s[mask]
    if (np.diff(begin_s) < 0).any():
        order = np.argsort(begin_s, kind="stable")
        begin_s, limit_s, texts = begin_s[order], limit_s[order], texts.take(pa.array(order))
    n_words = pc.count_substring(texts, " ").to_numpy() + 1
    end_s = np.minimum(np.append(begin_s[1:], np.inf)[: len(texts)], limit_s)
    end_s = np.clip(end_s, begin_s, begin_s + max_word_s * n_words)
    return TimedText(begin_s, end_s, texts, np.ones(len(texts), bool), lost)
