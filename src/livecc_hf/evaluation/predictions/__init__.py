"""Files of predictions and verdicts: ours, which survive being killed, and those that others published."""

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
