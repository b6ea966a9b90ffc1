"""Counts of a pool."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field


@dataclass
class PoolStats:
    """Counts of a pool since its start, or since its warm-up.

    Attributes:
        n_rounds: rounds.
        n_rounds_apart: rounds in which the batch failed, so that each stream was tried alone, which takes longer.
        n_turns: turns generated.
        n_tokens: tokens generated.
        n_dropped_frames: frames dropped because they arrived faster than they could be commented on.
        n_refused: joins and pushes refused.
        n_failed: streams ended by an error.
        n_unsaid_frames: frames that still had no words when their stream was ended.
        busy_s: seconds spent in rounds.
        latencies_s: seconds from the arrival of a turn's last frame to its words, for the last 1,000 turns.
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
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, n_refused: int = 0, n_dropped_frames: int = 0, n_unsaid_frames: int = 0, n_failed: int = 0) -> None:
        """Add to the counts that several threads change; the others are changed only in rounds."""
        with self._lock:  # takes no other lock inside
            self.n_refused += n_refused
            self.n_dropped_frames += n_dropped_frames
            self.n_unsaid_frames += n_unsaid_frames
            self.n_failed += n_failed
