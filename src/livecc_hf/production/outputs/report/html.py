"""Formats values as HTML for the report."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any


def text(value: Any) -> str:
    """Return a value as escaped text."""
    return html.escape(str(value))


def code(value: str) -> str:
    """Return an escaped text, with text between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(value))


def anchor(*names: str) -> str:
    """Return an id for an element on the page."""
    return text("-".join(names).replace(" ", "_"))


def player_time(seconds: float) -> str:
    """Return a time as a player shows it, such as "1:02.5"."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest / 10:04.1f}" if rest % 10 else f"{rest // 10:02d}"
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"


def number(value: float) -> str:
    """Return a number in a readable form."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def plain_value(value: Any) -> str:
    """Return a value in the form of a recipe."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return str(value) if value != "" else "''"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table.

    Args:
        heads: titles of the columns, as text.
        rows: cells, as HTML.
        numbers: indices of right-aligned columns.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="number"' if column in numbers else "" for column in range(len(cells))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))

    lines = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{line([text(head) for head in heads], 'th')}</tr>{lines}</table>"
