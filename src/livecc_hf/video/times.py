"""Turns a file's timestamps into times that never go back: FFmpeg's best effort, with jumps removed.

Timestamps go wrong in two ways. Single frames have none, or one that is out of order: their decoding time may be used
instead. And the clock itself jumps: far ahead at a damaged timestamp or time table entry, or back to its start where
recordings were concatenated. The frames after a jump are put directly after those before it.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any, Generic, TypeVar

from livecc_hf.modeling.video_file import FALLBACK_DURATION_S, MAX_GAP_S

# A step back by more than this, in seconds and in frames, is a restart of the clock; by less, a frame out of order.
_MIN_RESTART_S = 1
MIN_RESTART_FRAMES = 16
# The usual duration of a frame is the median of this many recent steps.
_RECENT_STEPS = 5
# How many earlier clock offsets to try when times jump: after a few damaged timestamps, the old clock continues.
_MOST_OFFSETS = 8

TimeT = TypeVar("TimeT", Fraction, int)  # seconds, or ticks


class BestEffort:
    """Chooses between the presentation and the decoding time of each frame, as FFmpeg's `best_effort_timestamp` does.

    The rule is `guess_correct_pts` of libavcodec/decode.c: the presentation time, unless it is missing or presentation
    times were out of order more often so far than decoding times.
    """

    def __init__(self):
        self._last_pts = self._last_dts = -(1 << 63)
        self._faulty_pts = self._faulty_dts = 0

    def ticks_of(self, pts: int | None, dts: int | None) -> int | None:
        """Return the time of the next frame, in the unit of the given times; `None` if both are `None`."""
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        return pts if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts) else dts


class SteadyClock(Generic[TimeT]):
    """Corrects a sequence of times so that it never goes back.

    Times are in seconds, or in integer ticks of 1 / `second` seconds.

    Args:
        usual: duration of a frame or packet by the header; replaces a damaged step until enough steps are known.
        max_gap_s: a longer step beyond the end of all packets so far, in seconds, is treated as damage.
        second: ticks per second.

    Attributes:
        last: the last corrected time.
        n_jumps: how often times jumped ahead by more than `max_gap_s`.
        n_restarts: how often the clock restarted.
        n_backward: how many times lay in the past and were dropped.
    """

    def __init__(self, usual: TimeT, max_gap_s: float | Fraction = MAX_GAP_S, second: int = 1):
        self.max_gap_s = max_gap_s
        self._max_gap = Fraction(max_gap_s) * second
        self._usual: Any = usual  # here and below: seconds or ticks, never mixed
        if usual > self._max_gap:  # the header's rate is damaged
            self._usual = max(1, second // 25) if isinstance(usual, int) else FALLBACK_DURATION_S * second
        # At most 16 s, since a damaged time table also gives a wrong rate.
        self._longest_step = max(_MIN_RESTART_S * second, MIN_RESTART_FRAMES * min(self._usual, second))
        self._steps: deque[Any] = deque(maxlen=_RECENT_STEPS)
        self._offsets: list[Any] = [0]
        self.last: TimeT | None = None
        self.n_jumps = self.n_restarts = self.n_backward = 0

    def settle(self, time: TimeT | None, reached: Fraction | int | None = None) -> TimeT | None:
        """Return the corrected time of the next frame.

        Args:
            time: its time by the file, `None` if it has none.
            reached: end of the file's other streams so far, if there are any.

        Returns:
            `None` for a frame that is out of order, in the past.
        """
        last: Any = self.last
        if last is None:
            self.last = time if time is not None else 0 * self._usual
        elif time is None:
            self.last = last + self._usual
        elif 0 <= (step := time - self._offsets[0] - last) <= self._longest_step:
            self._steps.append(step)
            self.last = last + step
        else:
            settled = self._settle_jump(time, last, last if reached is None else max(last, reached))
            if settled is None:
                self.n_backward += 1
                return None
            self.last = settled
        return self.last

    def length(self, start: TimeT, duration: TimeT, reached: Fraction | int | None = None) -> TimeT:
        """Return how long a frame that appears at `start` stays: `duration`, unless it is missing or damaged."""
        past: Any = 0 if reached is None else reached - start
        limit = self._max_gap + max(past, 0)
        return duration if 0 < duration <= limit else self._usual_step()

    def _usual_step(self) -> Any:
        return sorted(self._steps)[len(self._steps) // 2] if len(self._steps) == _RECENT_STEPS else self._usual

    def faults(self) -> list[str]:
        """Return a description of each kind of fault in the times."""
        after = "later parts follow earlier ones"
        faults = (
            (self.n_restarts, f"its clock restarts {{}} time(s), as in concatenated recordings; {after}"),
            (self.n_jumps, f"{{}} jump(s) of its times by more than {float(self.max_gap_s):g} s were removed"),
            (self.n_backward, "{} frame(s) with a time in the past were skipped"),
        )
        return [text.format(number) for number, text in faults if number]

    def _settle_jump(self, time: Any, last: Any, reached: Any) -> Any | None:
        steps = {offset: time - offset - last for offset in self._offsets}
        # Prefer an offset with which this time directly continues the last one, then any that avoids a jump.
        fitting = [offset for offset, step in steps.items() if 0 <= step <= self._longest_step]
        limit = reached - last + self._max_gap
        fitting += [offset for offset, step in steps.items() if 0 <= step <= limit]
        if fitting:
            offset = fitting[0]
            self._offsets.remove(offset)
        else:
            behind = -steps[self._offsets[0]]
            if 0 < behind <= self._longest_step:
                return None
            self.n_restarts += behind > 0
            self.n_jumps += behind < 0
            offset = time - (last + self._usual_step())
        self._offsets = [offset, *self._offsets[: _MOST_OFFSETS - 1]]
        return time - offset
