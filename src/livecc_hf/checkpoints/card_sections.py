"""Parts of a card that are written anew: each stands between marks, which a page does not show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ROW = re.compile(r"^\| (?!\|)(.+?) \| (.+) \|$", re.MULTILINE)


def set_section(text: str, name: str, content: str, head: str, before: str = "", after: int | None = None) -> str:
    """Return Markdown with new content between its marks of a section.

    Args:
        text: the Markdown.
        name: of the section, in its marks.
        content: what stands between them.
        head: what stands above a section that is new.
        before: a new section comes before this text, else at the end.
        after: a new section comes at this offset.
    """
    begin, end = f"<!-- livecc:{name} -->", f"<!-- /livecc:{name} -->"
    section = f"{begin}\n{content.strip()}\n{end}"
    found = re.search(re.escape(begin) + ".*?" + re.escape(end), text, re.DOTALL)
    if found is not None:
        return text[: found.start()] + section + text[found.end() :]
    at = after if after is not None else (text.find(before) if before and before in text else len(text))
    return f"{text[:at].rstrip()}\n\n{head}{section}\n\n{text[at:].lstrip()}".rstrip().lstrip("\n") + "\n"


def has_section(text: str, name: str) -> bool:
    """Return whether Markdown holds the marks of a section."""
    return f"<!-- livecc:{name} -->" in text


def facts_table(facts: Mapping[str, Any]) -> str:
    """Return facts as a table of Markdown, a row each."""
    rows = [(name, str(value).replace("|", "\\|").replace("\n", " ")) for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def read_facts_table(text: str) -> dict[str, str]:
    """Return the facts of a table that `facts_table` wrote."""
    return {name: value.replace("\\|", "|") for name, value in _ROW.findall(text)}
