"""Turns the times that a file says into times that run on: FFmpeg's best effort, past jumps that are damage.

A file's times go wrong in two ways. Single frames have none, or one that is out of order: then their decoding time may
serve. And the clock itself jumps: far ahead where an entry of a time table or a time stamp is damaged, back to where
it began where recordings were joined end to end. After a jump, what follows is put after what came before it.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any, Generic, TypeVar

from livecc_hf.modeling.video_file import FALLBACK_DURATION_S, MAX_GAP_S

# A step back by more than this, in seconds and in frames, is a clock that begins anew; by less, a frame out of order.
_MIN_RESTART_S = 1
MIN_RESTART_FRAMES = 16
# So many of the last steps tell how long a frame usually lasts.
_RECENT_STEPS = 5
# Past clocks that are tried when times jump: damage to single time stamps goes back to the clock before.
_MOST_OFFSETS = 8

TimeT = TypeVar("TimeT", Fraction, int)  # seconds, or ticks


class BestEffort:
    """Chooses between the presentation and the decoding time of each frame, as FFmpeg's `best_effort_timestamp` does.

    The rule is `guess_correct_pts` of libavcodec/decode.c: the presentation time, unless there is none, or those seen
    so far were out of order more often than the decoding times.
    """

    def __init__(self):
        self._last_pts = self._last_dts = -(1 << 63)
        self._faulty_pts = self._faulty_dts = 0

    def ticks_of(self, pts: int | None, dts: int | None) -> int | None:
        """Return the time of the next frame, in the unit of the given times; `None` if both are."""
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
    """Settles times one after the other; what it gives never goes back.

    Times are in seconds, or in whole ticks of which `second` make one.

    Args:
        usual: how long a frame or packet lasts by the header: the step that is taken where the file's is damage, as
            long as no usual one is known from the times.
        max_gap_s: a longer step past everything that the file's packets have reached is damage; in seconds.
        second: ticks in a second.

    Attributes:
        last: the last time that was settled.
        n_jumps: how often times jumped ahead by more than that.
        n_restarts: how often the clock began anew.
        n_backward: how many times lay in the past; they were not settled.
    """

    def __init__(self, usual: TimeT, max_gap_s: float | Fraction = MAX_GAP_S, second: int = 1):
        self.max_gap_s = max_gap_s
        self._max_gap = Fraction(max_gap_s) * second
        self._usual: Any = usual  # here and below numbers of either kind, which go together
        if usual > self._max_gap:  # the rate by the header is damage, too
            self._usual = max(1, second // 25) if isinstance(usual, int) else FALLBACK_DURATION_S * second
        # A damaged time table makes a wrong rate, too.
        self._longest_step = max(_MIN_RESTART_S * second, MIN_RESTART_FRAMES * min(self._usual, second))
        self._steps: deque[Any] = deque(maxlen=_RECENT_STEPS)
        self._offsets: list[Any] = [0]
        self.last: TimeT | None = None
        self.n_jumps = self.n_restarts = self.n_backward = 0

    def settle(self, time: TimeT | None, reached: Fraction | int | None = None) -> TimeT | None:
        """Return when a frame appears that the file says to appear at `time`.

        Args:
            time: as the file says; `None`: it does not say.
            reached: how far the file's other streams have come, if there are any.

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
            settled = self._settled(time, last, last if reached is None else max(last, reached))
            if settled is None:
                self.n_backward += 1
                return None
            self.last = settled
        return self.last

    def length(self, start: TimeT, duration: TimeT, reached: Fraction | int | None = None) -> TimeT:
        """Return how long what appears at `start` stays: its `duration` by the file unless that is damage too."""
        past: Any = 0 if reached is None else reached - start
        limit = self._max_gap + max(past, 0)
        return duration if 0 < duration <= limit else self._usual_step()

    def _usual_step(self) -> Any:
        return sorted(self._steps)[len(self._steps) // 2] if len(self._steps) == _RECENT_STEPS else self._usual

    def faults(self) -> list[str]:
        """Return what was wrong with the times, for a message."""
        after = "what follows was put after what came before"
        faults = (
            (self.n_restarts, f"its clock begins anew {{}} time(s), as in recordings joined end to end; {after}"),
            (self.n_jumps, f"{{}} jump(s) of its times by more than {float(self.max_gap_s):g} s were left out"),
            (self.n_backward, "{} frame(s) with a time in the past were skipped"),
        )
        return [text.format(number) for number, text in faults if number]

    def _settled(self, time: Any, last: Any, reached: Any) -> Any | None:
        steps = {offset: time - offset - last for offset in self._offsets}
        # What goes on where a past clock stopped ends damage to a few times; else the clock is as it was.
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
