"""RealTimeFeed against the real clock."""

import itertools
import threading
import time

import pytest
import torch

from livecc_hf.sources import LagMeter, PlayoutClock, RealTimeFeed
from livecc_hf.sources.timeline import LiveChunk
from livecc_hf.video.reader import FrameChunk


def chunks(n_chunks, frame_s=0.05, n_frames=2, last_frames=2):
    """A video with a frame every `frame_s` seconds, starting at 100 s."""
    for chunk in range(n_chunks):
        count = last_frames if chunk == n_chunks - 1 else n_frames
        times = [100 + (chunk * n_frames + frame) * frame_s for frame in range(count)]
        yield FrameChunk(torch.zeros(count, 3, 2, 2, dtype=torch.uint8), times)


def test_a_fast_consumer_gets_everything_when_it_is_due():
    feed = RealTimeFeed(chunks(6))
    began_s = time.monotonic()
    lags = []
    for number, chunk in enumerate(feed):
        assert chunk.timestamps_s[0] == pytest.approx(100 + number * 0.1)
        assert time.monotonic() - began_s >= number * 0.1 + 0.05 - 0.005
        lags.append(feed.lag_s(chunk))
    assert len(lags) == 6
    assert feed.skipped_frames == 0
    assert all(-0.005 <= lag < 0.2 for lag in lags)


def test_a_slow_consumer_gets_the_newest_and_the_rest_is_counted():
    feed = RealTimeFeed(chunks(20, frame_s=0.02))
    taken = []
    for chunk in feed:
        taken += chunk.timestamps_s
        time.sleep(0.14)  # the duration of 7 frames
    assert taken == sorted(taken)
    assert len(taken) + feed.skipped_frames == 40
    assert feed.skipped_frames > 15
    assert taken[-1] == pytest.approx(100 + 39 * 0.02)  # the newest


def test_a_short_last_chunk_replaces_nothing():
    feed = RealTimeFeed(chunks(4, last_frames=1))
    taken = []
    for chunk in feed:
        taken.append(len(chunk.timestamps_s))
        time.sleep(0.5)
    assert taken == [2, 2, 1]
    assert feed.skipped_frames == 2


def test_a_consumer_may_leave():
    feed = iter(RealTimeFeed(chunks(10_000)))
    next(feed)
    began_s = time.monotonic()
    feed.close()
    assert time.monotonic() - began_s < 1


def test_an_error_of_the_video_reaches_the_consumer():
    def broken():
        yield from chunks(1)
        raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"):
        list(RealTimeFeed(broken()))


def arrivals(bursts, burst_s):
    """A live source that sends bursts of chunks, with a second of video shortened to `burst_s`."""
    began_s = time.monotonic()
    for burst in range(bursts):
        time.sleep(max(0, began_s + burst * 4 * burst_s - time.monotonic()))
        for chunk in range(4):
            first = (burst * 4 + chunk) * burst_s
            times = [first, first + burst_s / 2]
            yield LiveChunk(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), times, time.monotonic())


def test_bursts_of_a_live_source_are_delivered_evenly():
    feed = RealTimeFeed(arrivals(5, burst_s=0.1), PlayoutClock(max_hold_s=4))
    taken = [(time.monotonic(), chunk.timestamps_s[0]) for chunk in feed]
    assert len(taken) == 20
    assert feed.skipped_frames == 0
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(taken)]
    assert max(gaps) < 0.3


def test_bursts_are_held_back_no_longer_than_asked():
    feed = RealTimeFeed(arrivals(5, burst_s=0.1), PlayoutClock(max_hold_s=0.05))
    lags = [feed.lag_s(chunk) for chunk in feed]
    assert max(lags) < 0.25
    assert len(lags) * 2 + feed.skipped_frames == 40


def test_a_flood_is_bounded():
    clock = PlayoutClock(max_hold_s=2)
    chunks = [LiveChunk(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), [n, n + 0.5], 100.0) for n in range(1000)]
    feed = RealTimeFeed(chunks, clock, now_s=lambda: 100.0)
    feed.wait_ready()
    time.sleep(0.2)
    assert len(feed._waiting) <= 3
    assert feed.skipped_frames >= 1990
    feed.close()


def test_a_reader_that_hangs_is_left_alone():
    hang = threading.Event()

    def hanging():
        yield from chunks(1)
        hang.wait(20)

    began_s = time.monotonic()
    failure = ValueError("hangs")
    feed = RealTimeFeed(hanging(), find_failure=lambda: failure if time.monotonic() - began_s > 0.5 else None)
    feed._clock.is_live = True
    with pytest.raises(ValueError, match="hangs"):
        list(feed)
    hang.set()


def test_an_error_at_the_start_is_raised_by_wait_ready():
    def broken():
        raise ValueError("no camera")
        yield

    with pytest.raises(ValueError, match="no camera"):
        RealTimeFeed(broken()).wait_ready()


def test_no_video_is_no_chunks():
    assert list(RealTimeFeed([])) == []


def test_lag_meter():
    meter = LagMeter()
    assert meter.mean_s == 0
    for lag_s in (0.1, 0.5, 0.3):
        meter.add(lag_s)
    assert (meter.mean_s, meter.max_s, meter.last_s) == (pytest.approx(0.3), 0.5, 0.3)
