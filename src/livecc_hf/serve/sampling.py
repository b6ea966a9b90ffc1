"""Selects the frames of a client that the model sees, and limits the rate of its messages."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from livecc_hf.modeling.grammar import FRAME_STEP_S, TURN_FRAMES

# A gap up to this is filled by repeating the frame after it; a longer gap is skipped.
MAX_FILL_S = 2.0
_TOLERANCE_S = 1e-3


@dataclass(frozen=True)
class Frame:
    """A frame that waits to be decoded.

    Attributes:
        timestamp_s: its time on the client's clock, in seconds.
        image: an image file.
        arrived_s: when it arrived, in seconds of `time.monotonic`.
    """

    timestamp_s: float
    image: bytes
    arrived_s: float


class ClientFrameSampler:
    """Samples two frames a second: each sampling time takes the first frame at or after it.

    Sampling times are multiples of 0.5 s from the first frame. A frame of a slow source serves several of them.

    Attributes:
        last_s: time of the latest frame, in seconds; minus infinity before the first.
    """

    def __init__(self):
        self._start_s: float | None = None
        self.last_s = -math.inf
        self._next_wanted = 0  # index of the next sampling time without a received frame
        self._next_taken = 0  # index of the next sampling time that the model was not shown
        self._n_taken = 0

    def wants(self, timestamp_s: float) -> bool:
        """Return whether the model should see a received frame.

        Raises:
            ValueError: if its time is before that of the previous frame.
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
        """Return the sampling times in seconds that a wanted frame serves; call :meth:`take` once it was shown."""
        newest, first = self._newest(timestamp_s), self._next_taken
        if (newest - first) * FRAME_STEP_S > MAX_FILL_S:
            # If half a turn waits, complete it first, so that later turns are whole seconds again.
            first = newest - (newest - self._n_taken) % TURN_FRAMES
        return [self._origin_s + n * FRAME_STEP_S for n in range(first, newest + 1)]

    def take(self, times_s: list[float]) -> None:
        """Mark sampling times as shown to the model."""
        self._next_taken = round((times_s[-1] - self._origin_s) / FRAME_STEP_S) + 1
        self._n_taken += len(times_s)

    @property
    def _origin_s(self) -> float:
        if self._start_s is None:
            raise RuntimeError("no frame has come yet: call wants first")
        return self._start_s

    def _newest(self, timestamp_s: float) -> int:
        """Return the index of the last sampling time at or before a frame."""
        return int((timestamp_s - self._origin_s + _TOLERANCE_S) / FRAME_STEP_S)


class RateLimit:
    """A token bucket that allows bursts of two seconds' worth.

    Args:
        per_s: the allowed rate, in units a second.
    """

    def __init__(self, per_s: float):
        self._per_s = per_s
        self._left = 2 * per_s
        self._at_s = time.monotonic()

    def allows(self, amount: float = 1) -> bool:
        """Return whether there is any budget left, and if so spend `amount`."""
        now_s = time.monotonic()
        self._left = min(2 * self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left <= 0:  # a message may overdraw the budget, so that one larger than a burst passes too
            return False
        self._left -= amount
        return True
