"""Finds the commentaries that verdicts are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .file import RowSet
from .inf_streams import SUITE, windows_named
from .rows import CommentaryRow, VerdictRow


def texts_of_model(model: str | None, texts: Sequence[RowSet[CommentaryRow]]) -> RowSet[CommentaryRow] | None:
    """Return the commentaries of a model, matched by the model's name or the file's; `None` if there are none."""
    if model is None:
        return None
    return next((item for item in texts if model in (item.header.model, Path(item.source).stem)), None)


def find_texts(
    verdicts: RowSet[VerdictRow], model: str | None, texts: Sequence[RowSet[CommentaryRow]]
) -> RowSet[CommentaryRow] | None:
    """Return the texts of one side of the verdicts, cut into windows if the verdicts are about windows.

    Args:
        verdicts: a judge's verdicts.
        model: name of the model, or of its opponent.
        texts: the commentaries at hand.

    Returns:
        The commentaries or windows; `None` if `texts` holds none of that model.
    """
    found = texts_of_model(model, texts)
    if found is not None and verdicts.header.suite == SUITE and found.header.suite != SUITE:
        return windows_named(found, (row.key for row in verdicts.rows))
    return found
