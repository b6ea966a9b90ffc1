"""Detects consecutive failures of the generation, which point to the server and not to a client."""

from __future__ import annotations

import time

_MANY = 3


class FailureStreak:
    """Counts streams that ended with an error since the last segment; updated by the pool's thread only.

    Args:
        reported_for_s: for how many seconds after its last failure a streak is reported.
    """

    def __init__(self, reported_for_s: float = 60.0):
        self._reported_for_s = reported_for_s
        # (failures in a row, time of the last, name of its type); one tuple, so that readers need no lock
        self._state: tuple[int, float, str] = (0, 0.0, "")

    def count(self, error: Exception | None) -> None:
        """Count the end of a stream.

        Args:
            error: the error that ended it, or `None`. A `ValueError` is the client's doing, such as a full context, and
                does not count.
        """
        if error is not None and not isinstance(error, ValueError):
            self._state = (self._state[0] + 1, time.monotonic(), type(error).__name__)

    def clear(self) -> None:
        """Reset the count after a segment."""
        self._state = (0, 0.0, "")

    @property
    def reason(self) -> str | None:
        """A description of the streak if it is long and recent, else `None`."""
        n_failures, last_s, what = self._state
        if n_failures < _MANY or time.monotonic() - last_s >= self._reported_for_s:
            return None
        return f"the generation failed in {n_failures} sessions in a row ({what})"
