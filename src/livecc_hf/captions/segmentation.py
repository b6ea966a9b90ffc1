"""Words of scripts without spaces between them, such as Chinese, Japanese and Thai; ICU's dictionaries find them."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.extras import MissingExtraError, require_extra

# Thai, Lao, Burmese, Khmer, kana and Chinese characters; not Korean, which has spaces.
_SOUTHEAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_EAST_ASIAN = f"{_KANA}\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNSPACED = f"[{_SOUTHEAST_ASIAN}{_EAST_ASIAN}]"
_UNSPACED_OR_MARK = f"{_SOUTHEAST_ASIAN}{_EAST_ASIAN}\u3001-\u303f\uff01-\uff60"
_UNSPACED = re.compile(UNSPACED)
_PIECE = re.compile(f" ?(?:{UNSPACED}|(?:(?!{UNSPACED})[^ ])+)")
# A syllable of Thai takes about three characters, one of Chinese one.
_CHARS_PER_SYLLABLE = 3
_WORD_CHARS = 12  # a longer run of such characters, where words are given, is no word
_LONG_RUN = re.compile(f"{UNSPACED}{{{_WORD_CHARS + 1},}}")


def without_needless_spaces(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return joined words as they are written, without spaces in scripts that have none, as `join_words` does."""
    if pc.all(pc.string_is_ascii(text)).as_py() is not False:
        return text
    for _ in range(2):  # a character between two spaces is found once at a time
        text = pc.replace_substring_regex(text, f"([{_UNSPACED_OR_MARK}]) ([{_UNSPACED_OR_MARK}])", r"\1\2")
    return text


def word_pieces(text: str) -> list[str]:
    """Cut joined words where a text may be shortened: each word with the space before it, each unspaced character."""
    return _PIECE.findall(" ".join(text.split()))


def has_unspaced_words(text: str) -> bool:
    """Return whether a text without spaces is more than one word."""
    return _LONG_RUN.search(text) is not None


def is_unspaced(text: pa.Array) -> np.ndarray:
    """Say which texts hold characters of a script without spaces; bool, shape (texts,)."""
    found = np.zeros(len(text), bool)
    foreign = np.flatnonzero(pc.invert(pc.string_is_ascii(text)).to_numpy(zero_copy_only=False))
    if foreign.size:
        matches = pc.match_substring_regex(text.take(pa.array(foreign)), UNSPACED)
        found[foreign] = pc.fill_null(matches, False).to_numpy(zero_copy_only=False)
    return found


def count_characters(text: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Count the characters of words: a measure of how long speech takes where words are hard to tell.

    Returns:
        float64 (texts,) each: characters of scripts without spaces, those of Southeast Asia counted a third, and all
        characters; `None` if there are none of such scripts.
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
    """Return what is missing to tell such words apart, with the command that installs it; `None`: nothing."""
    try:
        require_extra("segment", "finding the words of Chinese, Japanese or Thai captions")
    except MissingExtraError as error:
        return str(error)
    return None


def rows_without_spaces(text: pa.Array, row_of: np.ndarray) -> np.ndarray:
    """Return the numbers of the videos most of whose characters are of a script without spaces.

    Args:
        text: string array of (lines,).
        row_of: int, shape (lines,): number of the video of each.
    """
    if not len(text) or not is_unspaced(text).any():
        return np.empty(0, np.int64)
    n_unspaced = pc.count_substring_regex(text, UNSPACED).to_numpy(zero_copy_only=False)
    n_chars = pc.utf8_length(text).to_numpy(zero_copy_only=False)
    return np.flatnonzero(np.bincount(row_of, n_unspaced) * 2 > np.bincount(row_of, n_chars))


def with_spaces(text: pa.Array) -> pa.Array:
    """Put spaces between the words of scripts without them; where ICU is not there, the text stays as written.

    Args:
        text: string array of (lines,).
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
    """Return whether a word ends between two parts: other scripts stay as written, marks belong to a word."""
    if not (_UNSPACED.search(left) or _UNSPACED.search(right)):
        return False
    opens = unicodedata.category(right[0]) in ("Ps", "Pi")
    return (opens or any(map(str.isalnum, right))) and any(map(str.isalnum, left))
