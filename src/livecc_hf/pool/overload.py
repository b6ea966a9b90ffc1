"""How a pool handles frames that arrive faster than it can comment on them."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass

from livecc_hf.modeling.grammar import FRAME_STEP_S, TURN_FRAMES

OVERLOAD_POLICIES = ("refuse", "drop")


class OverloadedError(RuntimeError):
    """Frames arrive faster than the pool can comment on them."""


@dataclass(frozen=True)
class OverloadPolicy:
    """How much video may wait, and what happens to more.

    Attributes:
        kind: ``refuse`` (a push raises `OverloadedError`) or ``drop`` (the oldest waiting frames are dropped).
        max_lag_s: how many seconds of video may wait in addition to the next turn.

    Raises:
        ValueError: if a value is out of range.
    """

    kind: str = "refuse"
    max_lag_s: float = 4.0

    def __post_init__(self):
        if self.kind not in OVERLOAD_POLICIES:
            raise ValueError(f"overload={self.kind!r}: expected one of {', '.join(OVERLOAD_POLICIES)}")
        lag_s = self.max_lag_s
        if not isinstance(lag_s, int | float) or isinstance(lag_s, bool) or not 1 <= lag_s < math.inf:
            raise ValueError(f"max_lag_s={lag_s!r}: expected a number of seconds, at least 1")

    @property
    def drops(self) -> bool:
        """Whether frames are dropped instead of refused."""
        return self.kind == "drop"


class Backlog:
    """Counts the waiting frames of a stream and when they arrived. The caller holds the stream's lock.

    Attributes:
        n_in_turn: how many of them, from the first, are in the turn that is being generated.

    Args:
        policy: how much may wait.
        name: the stream's name in messages.
    """

    def __init__(self, policy: OverloadPolicy, name: str):
        self._policy, self._name = policy, name
        self._arrivals_s: deque[float] = deque()  # of each frame, on the clock of time.monotonic
        self.n_in_turn = 0

    def __len__(self) -> int:
        return len(self._arrivals_s)

    def check(self, n_next: int, n_coming: int) -> None:
        """Check whether new frames may be added; if none wait, any number may.

        Args:
            n_next: number of frames of the next turn.
            n_coming: number of new frames.

        Raises:
            OverloadedError: with policy ``refuse``, if there is no room for them.
        """
        n_waiting = len(self) - self.n_in_turn
        if not self._policy.drops and n_waiting and self._surplus(n_next) + n_coming > 0:
            raise OverloadedError(
                f"{self._name} has {n_waiting * FRAME_STEP_S:g} s of video waiting, with {self._policy.max_lag_s:g} s "
                "allowed in addition to the next turn (max_lag_s): push slower, let fewer streams join, or choose "
                "overload='drop'"
            )

    def add(self, n_frames: int) -> None:
        """Count new frames."""
        self._arrivals_s.extend([time.monotonic()] * n_frames)

    def drop_surplus(self, n_next: int) -> int:
        """With policy ``drop``, drop the oldest frames after the turn that is being generated, in whole turns.

        Args:
            n_next: number of frames of the next turn.

        Returns:
            Number of dropped frames.
        """
        surplus = self._surplus(n_next)
        if not self._policy.drops or surplus <= 0:
            return 0
        n_dropped = min(-(-surplus // TURN_FRAMES) * TURN_FRAMES, len(self) - self.n_in_turn)
        for _ in range(n_dropped):
            del self._arrivals_s[self.n_in_turn]
        return n_dropped

    def complete_turn(self) -> float:
        """Remove the frames of the generated turn, and return when the last of them arrived."""
        arrived_s = [self._arrivals_s.popleft() for _ in range(self.n_in_turn)]
        self.n_in_turn = 0
        return arrived_s[-1]

    def clear(self) -> None:
        """Remove all frames."""
        self._arrivals_s.clear()

    def _surplus(self, n_next: int) -> int:
        """Return how many frames wait beyond the next turn and the allowed lag; negative if there is room."""
        return len(self) - self.n_in_turn - n_next - int(self._policy.max_lag_s / FRAME_STEP_S)
