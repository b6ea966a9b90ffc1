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
    """

    def __init__(self, give_up_after: int):
        self.stop = threading.Event()
        self._give_up_after = give_up_after
        self._lock = threading.Lock()
        self._in_a_row = self._n_failed = 0
        self._last: EndpointError | None = None
        self._fatal: EndpointError | None = None

    def add(self, error: EndpointError) -> None:
        """Count a question that got no usable answer after all attempts."""
        with self._lock:
            self._in_a_row += 1
            self._n_failed += 1
            self._last = error
            if error.is_fatal:
                self._fatal = error
            if error.is_fatal or self._in_a_row >= self._give_up_after:
                self.stop.set()

    def reset(self) -> None:
        """Count an answer, which ends a series of failures."""
        with self._lock:
            self._in_a_row = 0

    def check(self, base_url: str) -> None:
        """Raise an EndpointError if the endpoint counts as broken."""
        if self._fatal is not None:
            raise self._fatal
        if self.stop.is_set():
            raise self.stopped(base_url)

    def stopped(self, base_url: str) -> EndpointError:
        """Return the error that ends the run: no clip of the batch is dropped, and answers stay in the cache."""
        return EndpointError(
            f"the prompt stage stops: {self._n_failed} clips in this batch got no usable answer from {base_url}, "
            f"the last because {self._last}. Check the endpoint and the model, and run the command again: with a "
            "cache, no answer is asked for twice",
            is_down=True,
        )
