"""Silences messages of libraries that no user of this package can act on."""

from __future__ import annotations

import logging
import warnings


def quiet_missing_kernels() -> None:
    """Silence bitsandbytes' message about optional CPU kernels, which it prints when peft imports it."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def quiet_renamed_options() -> None:
    """Silence transformers' warning that peft, not this package, reads an option by its old name."""
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
