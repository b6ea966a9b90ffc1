"""Reads and writes files of predictions and verdicts, in this package's format and in published ones."""

from .file import DuplicateRowError, RowFile, RowSet, read_rows, write_rows
from .header import Header
from .published import read_predictions
from .rows import ChoiceRow, CommentaryRow, SpokenSpan, VerdictRow, text_hash

__all__ = [
    "ChoiceRow",
    "CommentaryRow",
    "DuplicateRowError",
    "Header",
    "RowFile",
    "RowSet",
    "SpokenSpan",
    "VerdictRow",
    "read_predictions",
    "read_rows",
    "text_hash",
    "write_rows",
]
