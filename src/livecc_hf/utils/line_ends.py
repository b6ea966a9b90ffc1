"""Keeps the line ends of files that are rewritten."""

from __future__ import annotations

from pathlib import Path


def line_end_of(path: Path) -> str:
    """Return a file's line end, for `newline` of `Path.write_text`: the first one in it, or a line feed without any."""
    first = path.read_bytes().partition(b"\n")[0] if path.is_file() else b""
    return "\r\n" if first.endswith(b"\r") else "\n"
