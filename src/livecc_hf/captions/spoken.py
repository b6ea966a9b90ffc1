"""Reduces caption text to speech: removes markup, sounds, speaker marks and music notes."""

from __future__ import annotations

import html
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STYLE_TAG = r"</?[a-zA-Z][^<>]*>"
TIME_TAG = r"<\d[\d:.,]*>"

# Tags that separate lines or speakers; like a line break, they also separate words.
_BREAK_TAG = r"(?i)<br[ \t]*/?>|</?(?:p|div|li)(?:[ \t][^<>]*)?>|<v(?:\.[^<>]*)?[ \t][^<>]*>"
_RUBY = r"(?i)<rt(?:[. \t][^<>]*)?>[^<]*"  # pronunciation of the characters it annotates
_OVERRIDE = r"\{\\[^{}]*\}"  # SubStation override tags such as {\an8}

# Zero width joiners and non-joiners (U+200C, U+200D) stay: they are part of the spelling in Persian, Sinhala and emoji.
_INVISIBLE = "[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\u00ad]"
_MUSIC = "[\u2669-\u266f\U0001d11e\U0001f399\U0001f3a4\U0001f3b5\U0001f3b6\U0001f3bc]"
_SPACES = r"[\x{a0}\x{2000}-\x{200a}\x{202f}\x{3000}]"

_DASHES = r"\-\x{2010}-\x{2015}\x{2212}\x{2e3a}\x{2e3b}\x{fe58}\x{fe63}\x{ff0d}"
_DASH = f"[{_DASHES}]"
# A sound in parentheses, or in the brackets used for it in Japanese and Chinese. Numbers in parentheses are speech.
_ASIDE = "(?:{})".format(
    "|".join(
        rf"{left}(?:[^{left}{right}\d]*|[^{left}{right}]*\p{{L}}[^{left}{right}]*){right}"
        for left, right in ((r"\(", r"\)"), ("（", "）"), ("【", "】"), ("［", "］"))
    )
)
_SPEAKER = rf"[ \t]*(?:{_DASH}+[ \t]*)?(?:\p{{Lu}}[\p{{Lu}}\d .'&#]*:[ \t]*)?"
_ONLY_ASIDES = rf"(?m)^{_SPEAKER}(?:{_ASIDE}[ \t]*)+[.,!?\x{{2026}}]*[ \t]*$"
_ASIDES_FIRST = rf"(?m)^({_SPEAKER})(?:{_ASIDE}[ \t]*)+"
_ASIDES_LAST = rf"(?m)(?:[ \t]*{_ASIDE})+([.,!?\x{{2026}}]*)[ \t]*$"
_BRACKET_OVER_LINES = r"(?m)^[^\n]*\[[^\[\]\n]*\n[^\[\]]*\][^\n]*$"
# A dash before speech, but not before a number; a second speaker may follow in the same line.
_DASH_FIRST = rf"(?m)^(?:[ \t]*{_DASH}+[ \t]+)+"
_DASH_JOINED = rf"(?m)^[ \t]*{_DASH}+([^\s\d{_DASHES}]|$)"
_DASH_WITHIN = rf"([.?!\x{{2026}}][\"'\x{{201d}}\x{{2019}}]?)[ \t]+{_DASH}+(?:[ \t]+|([^\s\d{_DASHES}]))"


def clean_text(text: pa.Array, is_word: np.ndarray | None = None) -> pa.Array:
    """Return the spoken part of caption text.

    Parentheses at the start or end of a line, possibly over several lines, are sounds. Square brackets over several
    lines are removed; single lines with square brackets are left to the caller. For speed, each step runs only on the
    texts that contain its characters.

    Args:
        text: string array (cues,), with markup and line breaks as in the file.
        is_word: bool (cues,), whether a text is a word with its own times, which keeps its hyphens.

    Returns:
        String array (cues,), with line breaks between lines.
    """
    text = _where(text, pc.match_substring(text, "<"), _without_tags)
    text = _where(text, pc.match_substring(text, "\\"), _without_escapes)
    text = _where(
        text, pc.match_substring(text, "&"), lambda lines: pa.array(map(_unescape, lines.to_pylist()), pa.string())
    )
    is_foreign = pc.invert(pc.string_is_ascii(text))
    text = _where(text, is_foreign, _clean_unicode)
    text = _where(text, pc.match_substring(text, ">>"), lambda lines: pc.replace_substring_regex(lines, ">>+", " "))
    has_aside = pc.or_(pc.match_substring(text, "("), _foreign_matches(text, is_foreign, "[（【［]"))
    text = _where(text, has_aside, _without_asides)
    over_lines = pc.and_(pc.match_substring(text, "["), pc.match_substring(text, "\n"))
    text = _where(text, over_lines, lambda lines: pc.replace_substring_regex(lines, _BRACKET_OVER_LINES, ""))
    has_dash = pc.or_(pc.match_substring(text, "-"), _foreign_matches(text, is_foreign, _DASH))
    if is_word is not None:
        has_dash = pc.and_not(has_dash, pa.array(is_word))
    return _where(text, has_dash, _without_dashes)


def _without_tags(text: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(text, _RUBY, "")
    text = pc.replace_substring_regex(text, _BREAK_TAG, "\n")
    return pc.replace_substring_regex(text, f"{STYLE_TAG}|{TIME_TAG}", "")


def _without_escapes(text: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(text, _OVERRIDE, "")
    return pc.replace_substring(pc.replace_substring_regex(text, r"\\[Nn]", "\n"), "\\h", " ")


def _unescape(text: str) -> str:
    return html.unescape(html.unescape(text))  # twice: automatic captions contain &amp;gt;


def _clean_unicode(text: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(text, f"{_INVISIBLE}|{_MUSIC}", "")
    return pc.replace_substring_regex(text, _SPACES, " ")


def _without_asides(text: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(text, _ONLY_ASIDES, "")
    text = pc.replace_substring_regex(text, _ASIDES_FIRST, r"\1")
    return pc.replace_substring_regex(text, _ASIDES_LAST, r"\1")


def _without_dashes(text: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(text, _DASH_FIRST, "")
    text = pc.replace_substring_regex(text, _DASH_JOINED, r"\1")
    return pc.replace_substring_regex(text, _DASH_WITHIN, r"\1 \2")


def _foreign_matches(text: pa.Array, is_foreign: pa.Array, pattern: str) -> pa.Array:
    """Return which of the non-ASCII texts match the pattern."""
    if not pc.any(is_foreign).as_py():
        return is_foreign
    return pc.replace_with_mask(is_foreign, is_foreign, pc.match_substring_regex(text.filter(is_foreign), pattern))


def _where(text: pa.Array, mask: pa.Array, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Apply a change to the texts selected by a mask."""
    if not pc.any(mask).as_py():
        return text
    return pc.replace_with_mask(text, mask, change(text.filter(mask)))
