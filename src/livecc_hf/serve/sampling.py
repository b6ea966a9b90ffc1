"""Which of a client's frames the model sees, and how much a client may send."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from livecc_hf.modeling.grammar import FRAME_STEP_S, TURN_FRAMES

# A gap up to this is filled by repeating the frame after it; after a longer one, the time moves on.
MAX_FILL_S = 2.0
_TOLERANCE_S = 1e-3


@dataclass(frozen=True)
class Frame:
    """A frame that waits to be decoded.

    Attributes:
        timestamp_s: when it was taken, on the client's clock.
        image: an image file.
        arrived_s: when it came, on the clock of `time.monotonic`.
    """

    timestamp_s: float
    image: bytes
    arrived_s: float


class ClientFrameSampler:
    """Chooses two frames a second of however many come: each sampling time takes the first frame at or after it.

    Sampling times count from the first frame. Where a source is slow, a frame is taken more than once.

    Attributes:
        last_s: time of the last frame that came; minus infinity before the first.
    """

    def __init__(self):
        self._start_s: float | None = None
        self.last_s = -math.inf
        self._next_wanted = 0  # sampling times, counted from the start: of frames that come,
        self._next_taken = 0  # and of those that the model was shown
        self._n_taken = 0

    def wants(self, timestamp_s: float) -> bool:
        """Return whether a frame that has come is one to take.

        Raises:
            ValueError: if it is older than the one before.
        """
        if timestamp_s < self.last_s:
            raise ValueError(
                f"the frame's time goes back from {self.last_s:g} s to {timestamp_s:g} s: send frames in order"
            )
        self.last_s = timestamp_s
        if self._start_s is None:
            self._start_s = timestamp_s
        newest = self._newest(timestamp_s)
        if newest < self._next_wanted:
            return False
        self._next_wanted = newest + 1
        return True

    def times_of(self, timestamp_s: float) -> list[float]:
        """Return the sampling times in seconds that a wanted frame is for; :meth:`take` them when it was shown."""
        newest, first = self._newest(timestamp_s), self._next_taken
        if (newest - first) * FRAME_STEP_S > MAX_FILL_S:
            # Where half a turn waits, its other half follows, so that the turns after it are whole seconds again.
            first = newest - (newest - self._n_taken) % TURN_FRAMES
        return [self._origin_s + n * FRAME_STEP_S for n in range(first, newest + 1)]

    def take(self, times_s: list[float]) -> None:
        """Count sampling times as shown."""
        self._next_taken = round((times_s[-1] - self._origin_s) / FRAME_STEP_S) + 1
        self._n_taken += len(times_s)

    @property
    def _origin_s(self) -> float:
        if self._start_s is None:
            raise RuntimeError("no frame has come yet: ask whether it is wanted first")
        return self._start_s

    def _newest(self, timestamp_s: float) -> int:
        """Return the last sampling time not after a frame."""
        return int((timestamp_s - self._origin_s + _TOLERANCE_S) / FRAME_STEP_S)


class RateLimit:
    """So much a second, and a burst of two seconds.

    Args:
        per_s: what flows back each second.
    """

    def __init__(self, per_s: float):
        self._per_s = per_s
        self._left = 2 * per_s
        self._at_s = time.monotonic()

    def allows(self, amount: float = 1) -> bool:
        """Spend `amount`, if there is any left."""
        now_s = time.monotonic()
        self._left = min(2 * self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left <= 0:  # the last message may overdraw: it may be larger than two seconds' worth
            return False
        self._left -= amount
        return True
