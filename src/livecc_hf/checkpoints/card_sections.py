"""Sections of a card that this package can replace: each is enclosed in comments that a rendered page does not show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ROW = re.compile(r"^\| (?!\|)(.+?) \| (.+) \|$", re.MULTILINE)


def set_section(text: str, name: str, content: str, head: str, before: str = "", after: int | None = None) -> str:
    """Return Markdown in which a section has new content; the section is added if it does not exist.

    Args:
        text: the Markdown.
        name: name of the section, in its comments.
        content: the new content.
        head: Markdown to put above a section that is added.
        before: an added section is put before this text; at the end if the text does not occur.
        after: offset at which to add the section; overrides `before`.

    Raises:
        ValueError: see `find_section`.
    """
    begin, end = _comments(name)
    section = f"{begin}\n{content.strip()}\n{end}"
    found = find_section(text, name)
    if found is not None:
        return text[: found.start] + section + text[found.stop :]
    at = after if after is not None else (text.find(before) if before and before in text else len(text))
    above = f"{text[:at].rstrip()}\n\n" if text[:at].strip() else ""
    return f"{above}{head}{section}\n\n{text[at:].lstrip()}".rstrip() + "\n"


def find_section(text: str, name: str) -> slice | None:
    """Return where a section is in Markdown, with its comments; `None` if it does not exist.

    Raises:
        ValueError: if a comment of the section is missing, occurs twice, or is in the wrong place, so that it is not
            known which text belongs to the section.
    """
    begin, end = _comments(name)
    n_begins, n_ends = text.count(begin), text.count(end)
    if not n_begins and not n_ends:
        return None
    start, stop = text.find(begin), text.find(end)
    if (n_begins, n_ends) == (1, 1) and start < stop:
        return slice(start, stop + len(end))
    if n_begins > 1 or n_ends > 1:
        wrong = f"{begin} occurs {n_begins} times and {end} {n_ends} times"
    elif n_begins and n_ends:
        wrong = f"{end} is above {begin}"
    else:
        wrong = f"{begin if n_begins else end} is there without {end if n_begins else begin}"
    raise ValueError(
        f"{wrong}, so it is not known which text is replaced: put one {begin} above the section's content and one "
        f"{end} below it, or delete the comments and the content to have the section added again"
    )


def _comments(name: str) -> tuple[str, str]:
    return f"<!-- livecc:{name} -->", f"<!-- /livecc:{name} -->"


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return facts as a Markdown table with one row per fact."""
    rows = [(name, str(value).replace("|", "\\|").replace("\n", " ")) for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def read_facts_table(text: str) -> dict[str, str]:
    """Return the facts in a Markdown table that `facts_table` made."""
    return {name: value.replace("\\|", "|") for name, value in _ROW.findall(text)}
