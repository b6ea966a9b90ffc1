"""Admits clients up to a limit, in total and per address."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from livecc_hf.serve.messages import CLOSE_TRY_LATER, ClientError

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from livecc_hf.serve.settings import ServeSettings


class Admission:
    """Counts connected clients. Not thread-safe: call it from the event loop's thread only.

    An admitted client holds no slot of the pool yet: it takes one with its first frame.

    Args:
        settings: the limits.
        gauge: metric for the number of connected clients.

    Attributes:
        n_connected: number of connected clients.
    """

    def __init__(self, settings: ServeSettings, gauge: Gauge):
        self._settings, self._gauge = settings, gauge
        self.n_connected = 0
        self._n_admitted = 0
        self._of_address: Counter[str] = Counter()

    def enter(self, address: str, n_streams: int) -> int:
        """Admit a client and return its number; call :meth:`leave` when it disconnects.

        Args:
            address: the client's address, from `network_of`.
            n_streams: number of occupied slots of the pool.

        Raises:
            ClientError: if the server is full, in total or for this address.
        """
        if n_streams >= self._settings.max_sessions:
            raise self.full()
        limit = self._settings.max_sessions_per_address
        if limit is not None and self._of_address[address] >= limit:
            raise ClientError(
                "full_for_address",
                f"{limit} clients are connected from your address, which is the limit: close one, or try again later",
                CLOSE_TRY_LATER,
            )
        self._n_admitted += 1
        self._of_address[address] += 1
        self._count(1)
        return self._n_admitted

    def leave(self, address: str) -> None:
        """Note that a client has disconnected."""
        self._of_address -= Counter([address])  # drops entries that reach 0
        self._count(-1)

    def full(self) -> ClientError:
        """Return the error for a client when every slot is taken."""
        n_clients = self._settings.max_sessions
        return ClientError(
            "full", f"the server has {n_clients} clients, which is its limit: try again later", CLOSE_TRY_LATER
        )

    def _count(self, change: int) -> None:
        self.n_connected += change
        self._gauge.set(self.n_connected)
