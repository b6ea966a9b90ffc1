"""What a caption file says, as it is written, with its times."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .words import Lost


class CaptionError(ValueError):
    """A caption file that cannot be used.

    Attributes:
        reason: "no_captions" (no such file), "empty_captions", "corrupt_captions" or "caption_encoding".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.reason, str(self))  # travels between processes


class TimedText(NamedTuple):
    """Text with times, in seconds, in the order of the file.

    Attributes:
        start_s, end_s: float64, shape (pieces,).
        text: string array of (pieces,), with markup and line breaks as written.
        has_word_times: bool, shape (pieces,): a word with times of its own, else a line, whose time its words share.
        lost: pieces that cannot be used; `None`: all can.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    text: pa.Array
    has_word_times: np.ndarray
    lost: Lost | None = None


def words_with_ends(
    begin_s: np.ndarray, limit_s: np.ndarray, texts: pa.Array, max_word_s: float, lost: Lost | None = None
) -> TimedText:
    """Return words that end where the next one starts, by their caption's end and not too long after their start.

    Args:
        begin_s: float64 (words,).
        limit_s: float64 (words,), where the caption of each ends.
        texts: string array of (words,); blank ones are left out.
        max_word_s: longest time of a word.
        lost: passed on.
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
