"""Who may enter a server: clients are counted, all of them and those of one address."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from livecc_hf.serve.messages import CLOSE_TRY_LATER, ClientError

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from livecc_hf.serve.settings import ServeSettings


class Admission:
    """Counts clients in and out; in the event loop's thread only.

    A client that is in has no slot of the pool yet: it takes one with its first frame, so a silent client holds none.

    Args:
        settings: the limits.
        gauge: shows how many clients are connected.

    Attributes:
        n_connected: how many clients are in.
    """

    def __init__(self, settings: ServeSettings, gauge: Gauge):
        self._settings, self._gauge = settings, gauge
        self.n_connected = 0
        self._n_admitted = 0
        self._of_address: Counter[str] = Counter()

    def enter(self, address: str, n_streams: int) -> int:
        """Count a client in, and return its number; :meth:`leave` counts it out.

        Args:
            address: what stands for the client; see `network_of`.
            n_streams: how many slots of the pool are taken.

        Raises:
            ClientError: if there is no room.
        """
        if n_streams >= self._settings.max_sessions:
            raise self.full()
        limit = self._settings.max_sessions_per_address
        if limit is not None and self._of_address[address] >= limit:
            raise ClientError(
                "full_for_address",
                f"{limit} clients come from your address, as many as may: close one, or try again later",
                CLOSE_TRY_LATER,
            )
        self._n_admitted += 1
        self._of_address[address] += 1
        self._count(1)
        return self._n_admitted

    def leave(self, address: str) -> None:
        """Count a client out."""
        self._of_address -= Counter([address])  # keeps none at 0
        self._count(-1)

    def full(self) -> ClientError:
        """Return the error for a client for which there is no slot."""
        n_clients = self._settings.max_sessions
        return ClientError(
            "full", f"the server has {n_clients} clients, as many as it may: try again later", CLOSE_TRY_LATER
        )

    def _count(self, change: int) -> None:
        self.n_connected += change
        self._gauge.set(self.n_connected)
