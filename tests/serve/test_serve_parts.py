"""Sampling, rates, settings and messages."""

import dataclasses
import time

import pytest

pytest.importorskip("fastapi")
from prometheus_client import Gauge

from livecc_hf.serve.admission import Admission
from livecc_hf.serve.failures import FailureStreak
from livecc_hf.serve.inbox import Inbox
from livecc_hf.serve.messages import ClientError, close_reason, pack_frame
from livecc_hf.serve.sampling import ClientFrameSampler, RateLimit
from livecc_hf.serve.settings import ServeSettings, settings_from


def sampled(times_s):
    """Return (time, sampling times relative to the first frame) of each frame that the model is shown."""
    sampler, shown = ClientFrameSampler(), []
    for time_s in times_s:
        if sampler.wants(time_s):
            taken = sampler.times_of(time_s)
            sampler.take(taken)
            shown.append((time_s, [round(t - times_s[0], 3) for t in taken]))
    return shown


def test_each_sampling_time_takes_the_first_frame_at_or_after_it():
    assert sampled([5.0, 5.2, 5.49, 5.51, 5.9, 6.0, 6.4, 6.6]) == [(5.0, [0]), (5.51, [0.5]), (6.0, [1]), (6.6, [1.5])]
    thirty = sampled([n / 30 for n in range(301)])
    assert [n for _, taken in thirty for n in taken] == [n / 2 for n in range(21)]
    assert [round(t * 30) for t, _ in thirty] == [15 * n for n in range(21)]
    epoch = sampled([1.7e9 + n / 2 for n in range(200)])  # large times, to check rounding
    assert [taken for _, taken in epoch] == [[n / 2] for n in range(200)]


def test_a_slow_source_is_repeated_and_a_gap_is_not_filled():
    assert sampled([0, 1, 2]) == [(0, [0]), (1, [0.5, 1]), (2, [1.5, 2])]
    # Five frames were shown, so the next one completes the turn; later turns are whole seconds again.
    shown = sampled([0, 0.5, 1, 1.5, 2, 60.2, 60.6, 61.1])
    assert shown[5:] == [(60.2, [59.5, 60]), (60.6, [60.5]), (61.1, [61])]
    assert sampled([0, 0.5, 1, 1.5, 60.7])[4:] == [(60.7, [60, 60.5])]


def test_the_next_frame_replaces_one_that_was_not_taken():
    sampler = ClientFrameSampler()
    assert sampler.wants(0) and sampler.times_of(0) == [0]
    sampler.take([0])
    assert sampler.wants(0.5)  # damaged, so not taken
    assert sampler.wants(1.0) and sampler.times_of(1.0) == [0.5, 1.0]


def test_times_that_go_back_are_refused():
    sampler = ClientFrameSampler()
    assert sampler.wants(10)
    with pytest.raises(ValueError, match="goes back from 10 s to 9.5 s"):
        sampler.wants(9.5)
    assert sampler.wants(10.5)


def test_a_rate_limit_allows_a_burst_and_recovers():
    rate = RateLimit(20)
    assert sum(rate.allows() for _ in range(100)) in (40, 41, 42)
    time.sleep(0.25)
    assert 4 <= sum(rate.allows() for _ in range(100)) <= 12
    assert RateLimit(1).allows(1000)  # one message may be large


@pytest.mark.parametrize(
    ("text", "is_accepted"),
    [("a" * 120, True), ("\N{WATERMELON}" * 120, False)],  # 4 bytes each in UTF-8
)
def test_the_rate_of_bytes_counts_text_as_utf8_and_frames(text, is_accepted):
    settings = ServeSettings(max_bytes_per_s=100)  # 200 in a burst
    inbox = Inbox(settings, ClientFrameSampler(), lambda outcome: None)
    inbox.receive(f'{{"type": "start", "query": "{text}"}}', None)
    frame = pack_frame(0.0, b"x" * 192)
    if not is_accepted:
        with pytest.raises(ClientError, match="or 100 bytes a second") as refused:
            inbox.receive(None, frame)
        assert refused.value.code == "too_fast"
        return
    inbox.receive(None, frame)
    with pytest.raises(ClientError, match="or 100 bytes a second"):  # the frame has used the rest
        inbox.receive('{"type": "finish"}', None)


def test_the_limits_of_a_client_that_is_too_fast_are_written_out():
    inbox = Inbox(
        ServeSettings(max_bytes_per_s=20e6, max_messages_per_s=0.1), ClientFrameSampler(), lambda outcome: None
    )
    inbox.receive('{"type": "start"}', None)
    with pytest.raises(ClientError, match=r"more than 0\.1 messages or 20,000,000 bytes a second"):
        inbox.receive('{"type": "finish"}', None)


def test_settings_are_checked(monkeypatch):
    for name, value in (
        ("max_frame_px", 0),
        ("max_session_s", float("nan")),
        ("max_unread", 2.5),
        ("max_errors", True),
    ):
        with pytest.raises(ValueError, match=f"{name}={value}: expected a .*number above 0"):
            ServeSettings(**{name: value})
    with pytest.raises(ValueError, match="overload='queue': expected one of refuse, drop"):
        ServeSettings(overload="queue")
    with pytest.raises(ValueError, match="unknown setting x"):
        settings_from({"x": 1})
    monkeypatch.setenv("LIVECC_SERVE_TOKEN", "secret")
    assert settings_from({}).token == "secret" and settings_from({"token": "other"}).token == "other"
    assert "secret" not in repr(settings_from({}))
    monkeypatch.setenv("LIVECC_SERVE_TOKEN", "secret\n")  # secrets often end with a newline
    assert settings_from({}).token == "secret"
    monkeypatch.setenv("LIVECC_SERVE_TOKEN", " ")
    with pytest.raises(ValueError, match="token is empty"):
        settings_from({})
    assert all(f.metadata["help"] for f in dataclasses.fields(ServeSettings))


def test_admission_counts_connected_clients():
    gauge = Gauge("clients", "Clients", registry=None)
    admission = Admission(ServeSettings(max_sessions=2, max_sessions_per_address=1), gauge)
    assert admission.enter("a", 0) == 1 and admission.enter("b", 1) == 2
    for address, n_streams, code in (("a", 1, "full_for_address"), ("c", 2, "full")):
        with pytest.raises(ClientError) as refused:
            admission.enter(address, n_streams)
        assert refused.value.code == code
    assert admission.n_connected == gauge._value.get() == 2
    admission.leave("a")
    assert admission.enter("a", 1) == 3  # numbers are not reused
    admission.leave("a")
    admission.leave("b")
    assert admission.n_connected == gauge._value.get() == 0


def test_a_streak_of_failures_is_reported_for_a_while():
    for reported_for_s in (60.0, 0.0):
        failures = FailureStreak(reported_for_s)
        for error in (RuntimeError(), KeyError(), ValueError(), None, OSError()):
            assert failures.reason is None
            failures.count(error)
        assert failures.reason == ("the generation failed in 3 sessions in a row (OSError)" if reported_for_s else None)
        failures.clear()
        failures.count(OSError())
        assert failures.reason is None


def test_a_close_reason_fits_its_frame():
    reason = close_reason(ClientError("full", "ö" * 200, 1013))
    assert reason.startswith("full: öö") and 121 <= len(reason.encode()) <= 123
