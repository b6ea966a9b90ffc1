"""Failures of the generation in a row: the matter is with the server then, not with one of its clients."""

from __future__ import annotations

import time

_MANY = 3


class FailureRow:
    """Counts streams that an error ended since the last words came; from the pool's thread.

    Args:
        told_for_s: how many seconds they are told for; then clients may try whether it has passed.
    """

    def __init__(self, told_for_s: float = 60.0):
        self._told_for_s = told_for_s
        self._state: tuple[int, float, str] = (0, 0.0, "")  # in a row, when the last was, and what; set at once

    def count(self, error: Exception | None) -> None:
        """Count the end of a stream.

        Args:
            error: what ended it, if something did; what its client brought on itself, such as a context that is
                full, is a `ValueError` and does not count.
        """
        if error is not None and not isinstance(error, ValueError):
            self._state = (self._state[0] + 1, time.monotonic(), type(error).__name__)

    def clear(self) -> None:
        """Forget them: words have come."""
        self._state = (0, 0.0, "")

    @property
    def reason(self) -> str | None:
        """What to say of them, if there were many in a row, and lately."""
        n_failures, last_s, what = self._state
        if n_failures < _MANY or time.monotonic() - last_s >= self._told_for_s:
            return None
        return f"the generation failed in {n_failures} sessions in a row ({what})"
