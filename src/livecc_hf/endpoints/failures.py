"""Counts failed questions, to tell one bad question from a broken endpoint."""

from __future__ import annotations

import threading

from .chat import EndpointError


class EndpointFailures:
    """Counts failed questions of a batch; thread-safe.

    Args:
        give_up_after: failures in a row after which the endpoint counts as broken.

    Attributes:
        stop: set when no further question should be asked.
        n_failed: number of failed questions.
        last: the latest failure; `None` before the first.
        fatal: the latest failure that every question would share, such as a wrong key; `None` if there was none.
    """

    def __init__(self, give_up_after: int):
        self.stop = threading.Event()
        self.n_failed = 0
        self.last: EndpointError | None = None
        self.fatal: EndpointError | None = None
        self._give_up_after = give_up_after
        self._lock = threading.Lock()
        self._in_a_row = 0

    def add(self, error: EndpointError) -> None:
        """Count a question that got no usable answer after all attempts."""
        with self._lock:
            self._in_a_row += 1
            self.n_failed += 1
            self.last = error
            if error.is_fatal:
                self.fatal = error
            if error.is_fatal or self._in_a_row >= self._give_up_after:
                self.stop.set()

    def reset(self) -> None:
        """Count an answer, which ends a series of failures."""
        with self._lock:
            self._in_a_row = 0
