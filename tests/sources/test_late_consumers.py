"""Consumers that start late or are slow, such as a model that loads: waiting frames are kept."""

import contextlib
import threading
import time

import numpy as np
import pytest
from media import number_of, write_video
from senders import LiveEncoder, recording

from livecc_hf.sources import open_source


def in_thread(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def send_live(writer, n_frames, fps=10):
    """Encode in real time, and close."""

    def run():
        began_s = time.monotonic()
        # The pipe may be closed before all is sent.
        with contextlib.suppress(OSError, ValueError), writer, LiveEncoder(writer) as encoder:
            for n in range(n_frames):
                time.sleep(max(0.0, began_s + n / fps - time.monotonic()))
                encoder.send(n)

    return in_thread(run)


def flood(writer, data):
    def run():
        with writer:
            writer.write(data)

    return in_thread(run)


def test_live_frames_are_kept_until_the_consumer_starts(pipe):
    send_live(pipe[1], 51)
    source = open_source("-", stdin_fd=pipe[0])
    source.wait_ready()
    time.sleep(3)  # the model loads
    came_s = time.monotonic()
    taken = []
    for chunk in source:
        taken.append((chunk.timestamps_s, [number_of(frame) for frame in chunk.frames]))
        if chunk.timestamps_s[0] == 1:
            assert time.monotonic() - came_s < 1.5  # at once, not in real time
            assert source.note_lag(chunk) > 0.7  # the lag is reported
    assert [times for times, _ in taken] == [[n, n + 0.5] for n in range(5)] + [[5]]
    assert all(abs(number - 10 * t) <= 1 for times, numbers in taken for t, number in zip(times, numbers))
    assert source.stats.skipped_frames == 0


@pytest.mark.parametrize("wait_s", [0, 1.5])
def test_a_fast_sender_is_paced_and_nothing_is_skipped(wait_s, pipe):
    """A recording in a format without a duration, as in `cat a.ts | livecc commentate -`."""
    began_s = time.monotonic()
    flood(pipe[1], recording(60))
    source = open_source("-", stdin_fd=pipe[0])
    source.wait_ready()
    time.sleep(wait_s)
    times_s = [t for chunk in source for t in chunk.timestamps_s]
    assert times_s == [n / 2 for n in range(12)]
    assert source.stats.skipped_frames == 0
    assert time.monotonic() - began_s > 4.5


def test_the_newest_win_once_the_consumer_is_too_slow(pipe):
    send_live(pipe[1], 80)
    source = open_source("-", stdin_fd=pipe[0], max_hold_s=0.5)
    source.wait_ready()
    time.sleep(1)
    taken, lags = [], []
    for chunk in source:
        taken += chunk.timestamps_s
        time.sleep(1.5)
        lags.append(source.note_lag(chunk))
    assert taken[:4] == [0, 0.5, 1, 1.5]  # the frames that had come before
    assert source.stats.skipped_frames >= 2
    assert len(taken) + source.stats.skipped_frames == 16
    assert lags[-1] < 4.5


def test_a_sender_does_not_have_to_wait(tmp_path, pipe):
    """A sender that records a screen or a camera would have to skip frames."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    video = write_video(tmp_path / "a.ts", n_frames=100, paint=lambda n: np.roll(noise, n, axis=0))
    data = video.read_bytes()
    assert len(data) > 4 * 65536  # more than a pipe holds
    sender = flood(pipe[1], data)
    source = open_source("-", stdin_fd=pipe[0])
    source.wait_ready()
    sender.join(5)
    assert not sender.is_alive()
    source.close()


def test_a_recording_plays_from_its_start_when_the_consumer_comes(tmp_path):
    source = open_source(write_video(tmp_path / "a.mp4", n_frames=40), realtime=True)
    source.wait_ready()
    time.sleep(1.5)
    came_s = time.monotonic()
    times_s = [t for chunk in source for t in chunk.timestamps_s]
    assert times_s == [n / 2 for n in range(8)]
    assert source.stats.skipped_frames == 0
    assert time.monotonic() - came_s > 3.3


def test_a_slow_consumer_does_not_count_as_a_stall(tmp_path, pipe):
    """Audio packets that arrive after a long turn of the model."""
    video = write_video(tmp_path / "a.ts", n_frames=40, audio_s=4.0, audio_codec="mp2")
    flood(pipe[1], video.read_bytes())
    source = open_source("-", stdin_fd=pipe[0], live=False, stall_s=0.4)
    times_s = []
    for chunk in source:
        times_s += chunk.timestamps_s
        time.sleep(0.6)
    assert times_s == [n / 2 for n in range(8)]


def test_a_source_without_a_consumer_can_be_closed(pipe):
    send_live(pipe[1], 20)
    source = open_source("-", stdin_fd=pipe[0])
    source.wait_ready()
    began_s = time.monotonic()
    source.close()
    assert time.monotonic() - began_s < 1.5
    assert [thread for thread in threading.enumerate() if thread.name in ("livecc-pipe", "livecc-feed")] == []
