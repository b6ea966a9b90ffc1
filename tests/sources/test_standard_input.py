"""Standard input: live, as a recording, and with invalid data."""

import os
import threading
import time

import av
import numpy as np
import pytest
import torch
from media import number_of, write_video
from PIL import Image
from senders import LiveEncoder, recording

from livecc_hf.sources import SourceLostError, SourceOpenError, open_source
from livecc_hf.video.reader import iter_chunks


def send(writer, data):
    """Write in a thread, and close."""

    def run():
        with writer:
            writer.write(data)

    threading.Thread(target=run, daemon=True).start()


def send_live(writer, n_frames, fps=10, muxer="mpegts"):
    """Encode in real time, and close."""

    def run():
        began_s = time.monotonic()
        with writer, LiveEncoder(writer, muxer=muxer) as encoder:
            for n in range(n_frames):
                time.sleep(max(0.0, began_s + n / fps - time.monotonic()))
                encoder.send(n)

    threading.Thread(target=run, daemon=True).start()


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_a_recording_gives_the_frames_of_the_file(tmp_path, pipe, name):
    video = write_video(tmp_path / name, n_frames=73, times_s=[3 + n / 10 for n in range(73)])
    expected = list(iter_chunks(video))
    send(pipe[1], video.read_bytes())
    chunks = list(open_source("-", stdin_fd=pipe[0], live=False))
    assert len(chunks) == len(expected) == 8
    for chunk, other in zip(chunks, expected):
        assert torch.equal(chunk.frames, other.frames)
        assert chunk.timestamps_s == pytest.approx([t - 3 for t in other.timestamps_s])


def test_audio_that_begins_midway_does_not_end_the_video(tmp_path, pipe):
    """PyAV fails on a stream that begins after it opened the source."""
    parts = [
        write_video(tmp_path / "a.ts", n_frames=600, codec_options={"g": "10"}),
        write_video(tmp_path / "b.ts", times_s=[60 + n / 10 for n in range(40)], audio_s=64),
    ]
    send(pipe[1], b"".join(part.read_bytes() for part in parts))
    chunks = list(open_source("-", stdin_fd=pipe[0], live=False))
    assert [t for chunk in chunks for t in chunk.timestamps_s][:128] == [n / 2 for n in range(128)]
    assert number_of(chunks[63].frames[1]) == 34


@pytest.mark.parametrize("muxer", ["mpegts", pytest.param("matroska", marks=pytest.mark.slow)])
def test_a_live_pipe_is_paced_by_arrival_and_ends(pipe, muxer):
    began_s = time.monotonic()
    send_live(pipe[1], 21, muxer=muxer)
    source = open_source("-", stdin_fd=pipe[0])
    chunks = list(source)
    assert [t for chunk in chunks for t in chunk.timestamps_s][:4] == [0, 0.5, 1, 1.5]
    assert number_of(chunks[1].frames[1]) == 14
    assert 1.9 <= time.monotonic() - began_s < 6
    assert source.is_live
    assert source.stats.skipped_frames == 0


def test_the_33_bit_clock_of_mpegts_wraps(tmp_path, pipe):
    wraps_s = 2**33 / 90_000
    video = write_video(tmp_path / "a.ts", n_frames=60, times_s=[wraps_s - 4 + n / 10 for n in range(60)])
    send(pipe[1], video.read_bytes())
    source = open_source("-", stdin_fd=pipe[0], live=False)
    chunks = list(source)
    assert [t for chunk in chunks for t in chunk.timestamps_s] == [n / 2 for n in range(12)]
    assert [number_of(frame) for chunk in chunks for frame in chunk.frames[1:]] == [4, 14, 24, 34, 44, 54]
    assert source.stats.n_time_jumps == 0


def test_a_sender_that_changes_its_picture_in_the_middle(pipe):
    """A new frame size and restarted times, without an interruption."""
    send(pipe[1], recording(20) + recording(20, (192, 128)))
    source = open_source("-", stdin_fd=pipe[0], live=False)
    chunks = list(source)
    assert [t for chunk in chunks for t in chunk.timestamps_s] == [n / 2 for n in range(8)]
    assert {tuple(chunk.frames.shape[1:]) for chunk in chunks} == {(3, 64, 96)}
    assert (source.stats.n_size_changes, source.stats.n_time_jumps) == (1, 1)


def test_frames_before_the_first_key_frame_are_skipped_and_not_damage(tmp_path, pipe):
    video = write_video(tmp_path / "a.ts", n_frames=80, codec_options={"g": "40", "sc_threshold": "0"})
    data = video.read_bytes()
    with av.open(video) as container:
        packets = [packet.pos for packet in container.demux(video=0) if packet.size]
    send(pipe[1], data[packets[12] // 188 * 188 :])
    source = open_source("-", stdin_fd=pipe[0], live=False)
    chunks = list(source)
    assert [t for chunk in chunks for t in chunk.timestamps_s] == [n / 2 for n in range(8)]
    assert number_of(chunks[0].frames[0]) == 40
    assert source.stats.n_damaged == 0


def test_fragments_of_mp4(tmp_path, pipe):
    fragmented = {"movflags": "frag_keyframe+empty_moov"}
    video = write_video(tmp_path / "a.mp4", n_frames=40, muxer_options=fragmented, codec_options={"g": "5"})
    send(pipe[1], video.read_bytes())
    chunks = list(open_source("-", stdin_fd=pipe[0], live=False))
    assert [t for chunk in chunks for t in chunk.timestamps_s] == [n / 2 for n in range(8)]


def test_jpeg_pictures_of_changing_size(pipe):
    """They have no times, so their arrival is used."""

    def run():
        with pipe[1] as writer:
            for n in range(70):
                size = (96, 64) if n < 45 else (160, 160)
                Image.effect_noise(size, 90).convert("RGB").save(writer, "jpeg", quality=95)
                time.sleep(0.05)

    threading.Thread(target=run, daemon=True).start()
    source = open_source("-", stdin_fd=pipe[0])
    chunks = list(source)
    assert [chunk.timestamps_s for chunk in chunks][:2] == [
        [0, 0.5],
        [1, 1.5],
    ]  # 70 frames would be 2.8 s at 25 frames a second
    assert {tuple(chunk.frames.shape[1:]) for chunk in chunks} == {(3, 64, 96)}
    assert source.stats.n_size_changes == 1


def test_a_pipe_without_data(pipe):
    with pytest.raises(SourceOpenError, match=r"standard input: no data came for 0\.3 s"):
        list(open_source("-", stdin_fd=pipe[0], stall_s=0.3))


def test_a_pipe_that_stalls(pipe):
    stop = threading.Event()

    def run():
        with LiveEncoder(pipe[1]) as encoder:
            for n in range(21):
                encoder.send(n)
            stop.wait(20)

    threading.Thread(target=run, daemon=True).start()
    source = open_source("-", stdin_fd=pipe[0], stall_s=0.5, max_hold_s=0.1)
    with pytest.raises(SourceLostError, match=r"standard input: no data came for 0\.5 s"):
        list(source)
    stop.set()


def test_garbage(pipe):
    send(pipe[1], os.urandom(200_000))
    with pytest.raises(SourceOpenError, match="standard input: .*not a video|ended before|no video"):
        list(open_source("-", stdin_fd=pipe[0]))


def test_an_mp4_with_its_index_at_the_end_gets_a_helpful_error(tmp_path, pipe):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    video = write_video(tmp_path / "a.mp4", n_frames=60, paint=lambda n: np.roll(noise, n, axis=0))
    assert video.stat().st_size > 100_000
    send(pipe[1], video.read_bytes())
    with pytest.raises(SourceOpenError, match="an MP4 may have its index at the end"):
        list(open_source("-", stdin_fd=pipe[0]))


def test_a_file_as_standard_input_is_seekable(tmp_path):
    video = write_video(tmp_path / "a.mp4")
    with video.open("rb") as file:
        chunks = list(open_source("-", stdin_fd=file.fileno(), live=False))
    assert len(chunks) == 3


def test_an_empty_pipe(pipe):
    pipe[1].close()
    with pytest.raises(SourceOpenError, match="standard input: "):
        list(open_source("-", stdin_fd=pipe[0]))


def test_a_terminal():
    pty = pytest.importorskip("pty")
    main, other = pty.openpty()
    try:
        with pytest.raises(SourceOpenError, match="is a terminal: pipe a video into it"):
            list(open_source("-", stdin_fd=other))
    finally:
        os.close(main)
        os.close(other)


def test_a_named_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    threading.Thread(target=lambda: send_live(path.open("wb", buffering=0), 12), daemon=True).start()
    chunks = list(open_source(path))
    assert chunks[0].timestamps_s == [0, 0.5]
