"""Segments unspaced text (Chinese, Japanese, Thai and others) into words, with ICU."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.extras import MissingExtraError, require_extra

# Thai, Lao, Burmese, Khmer, kana and Chinese characters; not Korean, which is written with spaces.
_SOUTHEAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_EAST_ASIAN = f"{_KANA}\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNSPACED = f"[{_SOUTHEAST_ASIAN}{_EAST_ASIAN}]"
_UNSPACED_OR_MARK = f"{_SOUTHEAST_ASIAN}{_EAST_ASIAN}\u3001-\u303f\uff01-\uff60"
_UNSPACED = re.compile(UNSPACED)
_PIECE = re.compile(f" ?(?:{UNSPACED}|(?:(?!{UNSPACED})[^ ])+)")
# A Thai syllable is about three characters long, a Chinese one is a single character.
_CHARS_PER_SYLLABLE = 3
_WORD_CHARS = 12  # a longer run of unspaced characters is not a single word
_LONG_RUN = re.compile(f"{UNSPACED}{{{_WORD_CHARS + 1},}}")


def without_needless_spaces(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Remove the spaces between words of unspaced scripts from joined text, as `join_words` does."""
    if pc.all(pc.string_is_ascii(text)).as_py() is not False:
        return text
    for _ in range(2):  # twice, since matches do not overlap: "a b c" has one match at a time
        text = pc.replace_substring_regex(text, f"([{_UNSPACED_OR_MARK}]) ([{_UNSPACED_OR_MARK}])", r"\1\2")
    return text


def word_pieces(text: str) -> list[str]:
    """Split a text into words with the space before them, and single unspaced characters."""
    return _PIECE.findall(" ".join(text.split()))


def has_unspaced_words(text: str) -> bool:
    """Return whether a text without spaces contains more than one word of an unspaced script."""
    return _LONG_RUN.search(text) is not None


def is_unspaced(text: pa.Array) -> np.ndarray:
    """Return which texts contain characters of a script without spaces; bool (texts,)."""
    found = np.zeros(len(text), bool)
    foreign = np.flatnonzero(pc.invert(pc.string_is_ascii(text)).to_numpy(zero_copy_only=False))
    if foreign.size:
        matches = pc.match_substring_regex(text.take(pa.array(foreign)), UNSPACED)
        found[foreign] = pc.fill_null(matches, False).to_numpy(zero_copy_only=False)
    return found


def count_characters(text: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Count characters, to estimate the duration of speech in scripts whose words are hard to separate.

    Returns:
        Three float64 arrays (texts,): characters of scripts without spaces; the same, with Southeast Asian characters
        counted as a third; and all characters. `None` if no text has characters of such scripts.
    """
    if not is_unspaced(text).any():
        return None
    n_unspaced, n_southeast = (
        pc.count_substring_regex(text, pattern).to_numpy(zero_copy_only=False).astype(np.float64)
        for pattern in (UNSPACED, f"[{_SOUTHEAST_ASIAN}]")
    )
    n_chars = pc.utf8_length(text).to_numpy(zero_copy_only=False).astype(np.float64)
    return n_unspaced, n_unspaced - n_southeast * (1 - 1 / _CHARS_PER_SYLLABLE), n_chars


def segmenter_fault() -> str | None:
    """Return an error that names the missing segmenter and how to install it; `None` if it is installed."""
    try:
        require_extra("segment", "finding the words of Chinese, Japanese or Thai captions")
    except MissingExtraError as error:
        return str(error)
    return None


def rows_without_spaces(text: pa.Array, row_of: np.ndarray) -> np.ndarray:
    """Return the indices of the videos whose text is mostly in a script without spaces.

    Args:
        text: string array (lines,).
        row_of: int (lines,), the video of each line.
    """
    if not len(text) or not is_unspaced(text).any():
        return np.empty(0, np.int64)
    n_unspaced = pc.count_substring_regex(text, UNSPACED).to_numpy(zero_copy_only=False)
    n_chars = pc.utf8_length(text).to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.bincount(row_of, n_unspaced) * 2 > np.bincount(row_of, n_chars))


def with_spaces(text: pa.Array) -> pa.Array:
    """Insert spaces between the words of unspaced scripts, if the segmenter is installed.

    Args:
        text: string array (lines,).
    """
    lines = np.flatnonzero(is_unspaced(text))
    if not lines.size or segmenter_fault():
        return text
    mask = np.zeros(len(text), bool)
    mask[lines] = True
    segmented = [_segmented(line) for line in text.take(pa.array(lines)).to_pylist()]
    return pc.replace_with_mask(text, pa.array(mask), pa.array(segmented, pa.string()))


def _segmented(line: str) -> str:
    from icu4py.breakers import WordBreaker

    words: list[str] = []
    for chunk in line.split():
        parts: list[str] = []
        for part in WordBreaker(chunk, "und"):
            if parts and not _is_boundary(parts[-1], part):
                parts[-1] += part
            else:
                parts.append(part)
        words += parts
    return " ".join(words)


def _is_boundary(left: str, right: str) -> bool:
    """Return whether two of ICU's parts are separate words; punctuation belongs to a word."""
    if not (_UNSPACED.search(left) or _UNSPACED.search(right)):
        return False
    opens = unicodedata.category(right[0]) in ("Ps", "Pi")
    return (opens or any(map(str.isalnum, right))) and any(map(str.isalnum, left))
