"""Tells a question that an endpoint cannot answer from an endpoint that does not answer."""

from __future__ import annotations

import threading

from .chat import EndpointError


class EndpointFailures:
    """Counts what fails in a batch of questions, over all threads.

    Args:
        give_up_after: so many failures in a row, with no answer between them, are the endpoint's fault.

    Attributes:
        stop: set once nothing more need be asked.
    """

    def __init__(self, give_up_after: int):
        self.stop = threading.Event()
        self._give_up_after = give_up_after
        self._lock = threading.Lock()
        self._in_a_row = self._n_failed = 0
        self._last: EndpointError | None = None
        self._fatal: EndpointError | None = None

    def add(self, error: EndpointError) -> None:
        """Count a question that got no usable answer within its tries."""
        with self._lock:
            self._in_a_row += 1
            self._n_failed += 1
            self._last = error
            if error.is_fatal:
                self._fatal = error
            if error.is_fatal or self._in_a_row >= self._give_up_after:
                self.stop.set()

    def reset(self) -> None:
        """Count an answer."""
        with self._lock:
            self._in_a_row = 0

    def check(self, base_url: str) -> None:
        """Raise an EndpointError if too many questions failed to go on."""
        if self._fatal is not None:
            raise self._fatal
        if self.stop.is_set():
            raise self.stopped(base_url)

    def stopped(self, base_url: str) -> EndpointError:
        """Return the error that ends the run: nothing of the batch is dropped, and what was answered is cached."""
        return EndpointError(
            f"the prompt stage stops: {self._n_failed} clips in this batch got no usable answer from {base_url}, "
            f"the last because {self._last}. Check the endpoint and the model, and start again: answers that came are "
            "kept, if there is a cache",
            is_down=True,
        )
