"""Hides the report that transformers prints when weights do not fit a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers.utils import logging


@contextlib.contextmanager
def hide_load_report() -> Iterator[None]:
    """Hide transformers' warnings while loading, since `check_report` raises a one-line error for the same problems.

    Only the default verbosity is changed: with `TRANSFORMERS_VERBOSITY=info`, for example, the full report is printed.
    """
    before = logging.get_verbosity()
    if before != logging.WARNING:
        yield
        return
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
