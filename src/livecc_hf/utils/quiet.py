"""Silences messages of libraries that no user of this package can act on."""

from __future__ import annotations

import logging


def quiet_missing_kernels() -> None:
    """Silence bitsandbytes' message about optional CPU kernels, which it prints when peft imports it."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
