"""What a pool counts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class PoolStats:
    """What a pool has done so far.

    Attributes:
        n_rounds: rounds.
        n_rounds_apart: those in which all together failed, so that each stream was tried alone, which takes longer.
        n_turns: turns said.
        n_tokens: tokens generated.
        n_dropped_frames: frames dropped because they came faster than they could be commented on.
        n_refused: joins and pushes refused.
        n_failed: streams ended by an error.
        n_unsaid_frames: frames that waited for their words when their stream was ended.
        busy_s: time spent in rounds, in seconds.
        latencies_s: of the last turns: seconds from the arrival of a turn's last frame to its words.
    """

    n_rounds: int = 0
    n_rounds_apart: int = 0
    n_turns: int = 0
    n_tokens: int = 0
    n_dropped_frames: int = 0
    n_refused: int = 0
    n_failed: int = 0
    n_unsaid_frames: int = 0
    busy_s: float = 0.0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
