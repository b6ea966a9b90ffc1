"""Moved to `livecc_hf.utils.text`."""

from .utils.text import one_line

__all__ = ["one_line"]
