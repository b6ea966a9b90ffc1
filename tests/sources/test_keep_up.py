"""Skipping of frames while decoding is slower than the stream, with a real decoder and simulated times."""

import contextlib
import threading

import av
import pytest
from media import write_video

from livecc_hf.sources import parse_spec
from livecc_hf.sources.connection import Connection, DecodeCounts
from livecc_hf.sources.keep_up import KeepUp


@pytest.fixture
def video(tmp_path):
    path = write_video(tmp_path / "a.mp4", n_frames=200, codec_options={"g": "20"})
    with av.open(path) as container:
        yield container


def play(video, wait_s, work_s):
    """Simulate a wait of `wait_s(n)` and decoding for `work_s(n)` for each packet; return the frames at each level."""
    stream = video.streams.video[0]
    keep_up = KeepUp(stream.codec_context)
    now_s, levels, n_frames = 50.0, [], 0
    for n, packet in enumerate(video.demux(stream)):
        asked_s, now_s = now_s, now_s + wait_s(n)
        if packet.size:
            keep_up.note(packet, asked_s, now_s)
        n_frames += len(stream.decode(packet))
        levels.append(keep_up.level)
        now_s += work_s(n) if keep_up.level < 2 else 0.001  # this video has no non-reference frames
    return levels, n_frames


def test_all_frames_while_there_is_time(video):
    levels, n_frames = play(video, lambda n: 0.08, lambda n: 0.02)
    assert set(levels) == {0}
    assert n_frames == 200


def test_a_burst_does_not_skip_frames(video):
    levels, n_frames = play(video, lambda n: 0.0, lambda n: 0.03)
    assert set(levels) == {0}
    assert n_frames == 200


def test_key_frames_only_until_caught_up(video):
    """Decoding takes 0.15 s a frame at first, with a frame every 0.1 s; then it is faster."""
    levels, n_frames = play(video, lambda n: 0.0 if n < 100 else 0.09, lambda n: 0.15)
    assert max(levels) >= 1
    first_back = next(n for n in range(100, 200) if levels[n] == 0)
    assert first_back % 20 == 0  # at a key frame
    assert n_frames < 200


def note_all(video, work_s, pause_s):
    """Simulate packets that never wait, each decoded after a pause that is reported."""
    stream = video.streams.video[0]
    keep_up, now_s = KeepUp(stream.codec_context), 0.0
    for packet in video.demux(stream):
        if packet.size:
            keep_up.note(packet, now_s, now_s)
            now_s += work_s
            if pause_s:
                keep_up.note_pause(pause_s)
                now_s += pause_s
    return keep_up


def test_more_is_skipped_while_decoding_is_too_slow(video):
    assert note_all(video, work_s=0.3, pause_s=0.0).level == 2
    assert video.streams.video[0].codec_context.skip_frame == "NONKEY"


def test_skipped_frames_are_counted(tmp_path):
    path = write_video(tmp_path / "a.ts", n_frames=40, codec_options={"g": "10", "sc_threshold": "0"})
    counts = DecodeCounts()
    with contextlib.closing(
        Connection(parse_spec(str(path), live=True), 5, 5, threading.Event(), counts)
    ) as connection:
        connection._keep_up._set_level(2)
        frames = list(connection.frames())
    assert len(frames) == 4
    assert (counts.n_undecoded, counts.n_damaged) == (36, 0)


def test_pauses_do_not_count(video):
    """Such as while a model loads, or a sender is made to wait."""
    assert note_all(video, work_s=0.02, pause_s=0.3).level == 0
