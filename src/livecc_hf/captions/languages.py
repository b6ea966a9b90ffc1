"""Languages by their codes: which codes and tags name the same language."""

from __future__ import annotations

import re
from functools import lru_cache

from ..utils.extras import require_extra

# CLDR's distance of codes for one language: 0, or 1 for Norwegian (no) and its usual form, Bokmal (nb).
_SAME = 1
_SUBTAG = re.compile(r"[A-Za-z]{2,3}")


@lru_cache(maxsize=4096)
def language_code(tag: str) -> str | None:
    """Return the shortest ISO 639 code of a tag's language; `None` if it is unknown.

    "eng", "EN" and "en_US" give "en". Mandarin, "cmn", gives "zh", the code of its macrolanguage. Only the first subtag
    counts, so anything may follow it.

    Raises:
        ImportError: if langcodes is not installed.
    """
    require_extra("data", "telling languages apart", "langcodes")
    from langcodes import Language

    first = re.split("[-_]", tag.strip(), maxsplit=1)[0]
    if _SUBTAG.fullmatch(first) is None:
        return None
    language = Language.get(first.lower()).prefer_macrolanguage()
    return language.language if language.is_valid() else None


@lru_cache(maxsize=4096)
def is_same_language(one: str, other: str) -> bool:
    """Return whether two tags name the same language, whatever their region or script; an unknown one names none."""
    code, other_code = language_code(one), language_code(other)
    if code is None or other_code is None:
        return False
    from langcodes import tag_distance

    return code == other_code or tag_distance(code, other_code) <= _SAME


def check_language(tag: str, name: str = "language") -> None:
    """Raise a `ValueError` that names the option `name` if a tag's language is unknown."""
    if language_code(tag) is None:
        raise ValueError(f"{name} is {tag!r}: expected a language code such as en or pt-BR")
