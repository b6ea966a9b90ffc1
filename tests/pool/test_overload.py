"""How a pool handles frames that arrive too fast."""

import pytest

from livecc_hf.pool import OverloadedError, OverloadPolicy
from livecc_hf.pool.overload import Backlog


def backlog(n_waiting, *policy):
    """The backlog of a stream with this many waiting frames."""
    made = Backlog(OverloadPolicy(*policy), "stream 1")
    made.add(n_waiting)
    return made


def test_frames_beyond_the_next_turn_and_the_allowed_lag_are_dropped_in_whole_turns():
    assert [backlog(n, "drop", 2.0).drop_surplus(2) for n in (0, 6, 7, 10)] == [0, 0, 2, 4]  # a lag of 4 frames
    assert backlog(10, "drop", 2.0).drop_surplus(6) == 0
    assert backlog(10, "refuse", 2.0).drop_surplus(2) == 0
    backlog(100, "drop", 2.0).check(2, 2)  # policy drop refuses nothing


def test_frames_of_the_turn_in_progress_are_not_dropped():
    waiting = backlog(12, "drop", 2.0)
    waiting.n_in_turn = 6
    assert waiting.drop_surplus(2) == 0
    waiting.add(4)
    assert (waiting.drop_surplus(2), len(waiting)) == (4, 12)
    waiting.complete_turn()
    assert (len(waiting), waiting.n_in_turn) == (6, 0)


def test_an_empty_backlog_accepts_any_number_of_frames():
    backlog(0, "refuse", 1.0).check(6, 600)
    backlog(2, "refuse", 1.0).check(2, 2)
    with pytest.raises(OverloadedError, match=r"^stream 1 has 1 s of video waiting, with 1 s allowed"):
        backlog(2, "refuse", 1.0).check(2, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "wait"}, "overload='wait': expected one of refuse, drop"),
        ({"max_lag_s": 0.5}, "max_lag_s=0.5: expected a number of seconds, at least 1"),
        ({"max_lag_s": True}, "max_lag_s=True"),
        ({"max_lag_s": float("nan")}, "max_lag_s=nan"),
        ({"max_lag_s": float("inf")}, "max_lag_s=inf"),
    ],
)
def test_invalid_policies_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OverloadPolicy(**values)
