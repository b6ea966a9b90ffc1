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
    """
    begin, end = f"<!-- livecc:{name} -->", f"<!-- /livecc:{name} -->"
    section = f"{begin}\n{content.strip()}\n{end}"
    found = re.search(re.escape(begin) + ".*?" + re.escape(end), text, re.DOTALL)
    if found is not None:
        return text[: found.start()] + section + text[found.end() :]
    at = after if after is not None else (text.find(before) if before and before in text else len(text))
    return f"{text[:at].rstrip()}\n\n{head}{section}\n\n{text[at:].lstrip()}".rstrip().lstrip("\n") + "\n"


def has_section(text: str, name: str) -> bool:
    """Return whether Markdown has a section of that name."""
    return f"<!-- livecc:{name} -->" in text


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return facts as a Markdown table with one row per fact."""
    rows = [(name, str(value).replace("|", "\\|").replace("\n", " ")) for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def read_facts_table(text: str) -> dict[str, str]:
    """Return the facts in a Markdown table that `facts_table` made."""
    return {name: value.replace("\\|", "|") for name, value in _ROW.findall(text)}
