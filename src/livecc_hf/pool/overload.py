"""What a pool does with frames that come faster than it can comment on them."""

from __future__ import annotations

from dataclasses import dataclass

from livecc_hf.modeling.grammar import FRAME_STEP_S

OVERLOAD_POLICIES = ("refuse", "drop")


class OverloadedError(RuntimeError):
    """Frames come faster than the pool can comment on them."""


@dataclass(frozen=True)
class OverloadPolicy:
    """How much video may wait, and what happens to more.

    Attributes:
        kind: ``refuse`` (a push raises `OverloadedError`) or ``drop`` (the oldest frames that wait are dropped).
        max_lag_s: how many seconds of video may wait beside the next turn.

    Raises:
        ValueError: if a value is out of range.
    """

    kind: str = "refuse"
    max_lag_s: float = 4.0

    def __post_init__(self):
        if self.kind not in OVERLOAD_POLICIES:
            raise ValueError(f"overload={self.kind!r}: expected one of {', '.join(OVERLOAD_POLICIES)}")
        lag_s = self.max_lag_s
        if not isinstance(lag_s, int | float) or isinstance(lag_s, bool) or not lag_s >= 1:
            raise ValueError(f"max_lag_s={lag_s!r}: expected a number of seconds, at least 1")

    @property
    def drops(self) -> bool:
        """Whether frames are dropped, and not refused."""
        return self.kind == "drop"

    def surplus(self, n_waiting: int, n_next: int) -> int:
        """Return how many frames wait beyond the next turn and the lag allowed; below 0 where there is room.

        Args:
            n_waiting: frames that wait, without those of a turn that is being generated.
            n_next: how many frames the next turn takes.
        """
        return n_waiting - n_next - int(self.max_lag_s / FRAME_STEP_S)

    def check(self, n_waiting: int, n_next: int, n_coming: int, name: str) -> None:
        """Check that frames may come, if the policy is to refuse; where none wait, any number may.

        Args:
            n_waiting: as in :meth:`surplus`.
            n_next: as there.
            n_coming: how many come.
            name: of the stream, for the message.

        Raises:
            OverloadedError: if there is no room for them.
        """
        if not self.drops and n_waiting and self.surplus(n_waiting, n_next) + n_coming > 0:
            raise OverloadedError(
                f"{name} has {n_waiting * FRAME_STEP_S:g} s of video waiting, with {self.max_lag_s:g} s allowed beside "
                "the next turn (max_lag_s): push slower, let fewer streams join, or choose overload='drop'"
            )
