"""`livecc evaluate export` as a function."""

from __future__ import annotations

import os
from pathlib import Path

from livecc_hf.utils.output_file import check_not_read

from .predictions.inf_streams import write_chunks
from .predictions.proact_vl import write_seconds
from .predictions.published import read_commentary_file

FORMATS = ("proact-vl", "inf-streams")


def export(predictions: str | os.PathLike, format: str, out: str | os.PathLike) -> int:
    """Write commentaries in the file format of another evaluator.

    Args:
        predictions: a file of commentaries with turns.
        format: "proact-vl" (the text of each second) or "inf-streams" (StreamingVLM's chunks of 100 seconds).
        out: the JSON Lines file to write; parent folders are created.

    Returns:
        The number of lines written.

    Raises:
        OSError: if a file cannot be read or written.
        ValueError: if the format is unknown, no commentary has turns, or `out` is the file of commentaries itself.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}: expected {' or '.join(FORMATS)}")
    rows = read_commentary_file(predictions)
    check_not_read(out, [rows.source])
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    if format == "proact-vl":
        return write_seconds(out, rows)
    return write_chunks(out, rows)
