"""What a pool does with frames that come too fast."""

import pytest

from livecc_hf.pool import OverloadedError, OverloadPolicy


def test_surplus_is_what_lies_beyond_the_next_turn_and_the_lag():
    policy = OverloadPolicy("drop", max_lag_s=2.0)  # 4 frames
    assert [policy.surplus(n, n_next=2) for n in (0, 6, 7, 10)] == [-6, 0, 1, 4]
    assert policy.surplus(10, n_next=6) == 0
    policy.check(100, 2, 2, "stream 1")  # this one drops, and refuses nothing


def test_refusing_lets_the_first_frames_in_however_many_come():
    policy = OverloadPolicy("refuse", max_lag_s=1.0)
    policy.check(0, 6, 600, "stream 1")
    policy.check(2, 2, 2, "stream 1")
    with pytest.raises(OverloadedError, match=r"^stream 1 has 1 s of video waiting, with 1 s allowed"):
        policy.check(2, 2, 3, "stream 1")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "wait"}, "overload='wait': expected one of refuse, drop"),
        ({"max_lag_s": 0.5}, "max_lag_s=0.5: expected a number of seconds, at least 1"),
        ({"max_lag_s": True}, "max_lag_s=True"),
        ({"max_lag_s": float("nan")}, "max_lag_s=nan"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        OverloadPolicy(**values)
