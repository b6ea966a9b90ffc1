"""The clock-paced feed, against real time in tenths of a second."""

import time

import pytest
import torch

from livecc_hf.cli.pacing import LagMeter, RealTimeFeed
from livecc_hf.modeling.video_reader_livecc import FrameChunk


def chunks(n_chunks, frame_s=0.05, n_frames=2, last_frames=2):
    """A video whose frames come every `frame_s` seconds, from 100 s on."""
    for chunk in range(n_chunks):
        count = last_frames if chunk == n_chunks - 1 else n_frames
        times = [100 + (chunk * n_frames + frame) * frame_s for frame in range(count)]
        yield FrameChunk(torch.zeros(count, 3, 2, 2, dtype=torch.uint8), times)


def test_a_fast_taker_gets_everything_when_it_is_due():
    feed = RealTimeFeed(chunks(6))
    began_s = time.monotonic()
    lags = []
    for number, chunk in enumerate(feed):
        assert chunk.timestamps_s[0] == pytest.approx(100 + number * 0.1)
        assert time.monotonic() - began_s >= number * 0.1 + 0.05 - 0.005
        lags.append(feed.lag_s(chunk.timestamps_s[-1]))
    assert len(lags) == 6
    assert feed.skipped_frames == 0
    assert all(-0.005 <= lag < 0.2 for lag in lags)


def test_a_slow_taker_gets_the_newest_and_the_rest_is_counted():
    feed = RealTimeFeed(chunks(20, frame_s=0.02))
    taken = []
    for chunk in feed:
        taken += chunk.timestamps_s
        time.sleep(0.14)  # the time of 7 frames
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


def test_a_taker_may_leave():
    feed = iter(RealTimeFeed(chunks(10_000)))
    next(feed)
    began_s = time.monotonic()
    feed.close()
    assert time.monotonic() - began_s < 1


def test_an_error_of_the_video_reaches_the_taker():
    def broken():
        yield from chunks(1)
        raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"):
        list(RealTimeFeed(broken()))


def test_no_video_is_no_chunks():
    assert list(RealTimeFeed([])) == []


def test_lag_meter():
    meter = LagMeter()
    assert meter.mean_s == 0
    for lag_s in (0.1, 0.5, 0.3):
        meter.add(lag_s)
    assert (meter.mean_s, meter.max_s, meter.last_s) == (pytest.approx(0.3), 0.5, 0.3)
