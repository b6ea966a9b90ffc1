"""Checks of options that count something."""

from __future__ import annotations


def check_counts(options: object, *names: str) -> None:
    """Check that each named attribute of `options` is at least 1 or `None`.

    Raises:
        ValueError: naming the first attribute that is less than 1.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: expected at least 1")
