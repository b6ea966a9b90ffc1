"""Numbers of things that are given as options."""

from __future__ import annotations


def check_counts(options: object, *names: str) -> None:
    """Check that options of these names are at least 1, or not given (`None`).

    Raises:
        ValueError: for the first that is less.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: expected at least 1")
