"""Finds the commentaries that verdicts are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .file import RowSet
from .inf_streams import SUITE, windows_named
from .rows import MODEL, CommentaryRow, VerdictRow, text_hash


def find_commentaries(
    verdicts: RowSet[VerdictRow], whose: str, texts: Sequence[RowSet[CommentaryRow]]
) -> RowSet[CommentaryRow] | None:
    """Return the commentaries of one side of the verdicts; `None` if `texts` holds none of them.

    They are matched by the model's name or the file's. Of several with this name, as of two training runs, those are
    chosen whose texts were judged.

    Args:
        verdicts: a judge's verdicts.
        whose: the side, "model" or "opponent".
        texts: the commentaries at hand.
    """
    header = verdicts.header
    name = header.model if whose == MODEL else header.opponent
    if name is None:
        return None
    named = [item for item in texts if name in (item.header.model, Path(item.source).stem)]
    both_sides = header.model == header.opponent
    if both_sides or len(named) > 1:
        fitting = [item for item in named if _are_judged(verdicts, whose, item)]
        named = fitting or ([] if both_sides else named)
    return named[0] if named else None


def find_texts(
    verdicts: RowSet[VerdictRow], whose: str, texts: Sequence[RowSet[CommentaryRow]]
) -> RowSet[CommentaryRow] | None:
    """Return the result of `find_commentaries`, cut into windows if the verdicts are about windows."""
    found = find_commentaries(verdicts, whose, texts)
    return None if found is None else _as_judged(verdicts, found)


def _as_judged(verdicts: RowSet[VerdictRow], texts: RowSet[CommentaryRow]) -> RowSet[CommentaryRow]:
    if verdicts.header.suite == SUITE and texts.header.suite != SUITE:
        return windows_named(texts, (row.key for row in verdicts.rows))
    return texts


def _are_judged(verdicts: RowSet[VerdictRow], whose: str, texts: RowSet[CommentaryRow]) -> bool:
    """Return whether no verdict has the hash of another text."""
    try:
        known = {row.key: text_hash(row.pred or "") for row in _as_judged(verdicts, texts).rows}
    except ValueError:  # windows of commentaries without turns
        return False
    hashes = [(row.key, row.model_hash if whose == MODEL else row.opponent_hash) for row in verdicts.rows]
    return all(judged is None or known.get(key) == judged for key, judged in hashes)
