"""Clients that send garbage, bombs and floods get a clear error, and do not harm others."""

import contextlib
import io
import os
import socket
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from PIL import Image
from served import Client, alone, encoded, some_frames, wait_for
from websockets.exceptions import ConnectionClosed

from livecc_hf.serve.images import decode_image
from livecc_hf.serve.messages import pack_frame


@pytest.mark.parametrize(
    ("garbage", "code", "message"),
    [
        ("{", "bad_message", "Invalid JSON"),
        ("[" * 60000, "bad_message", "Invalid JSON"),
        ('{"type": "dance"}', "bad_message", "dance"),
        ('{"type": "ask"}', "bad_message", "query: Field required"),
        ('{"type": "ask", "query": 5}', "bad_message", "valid string"),
        ('{"type": "ask", "query": "x", "y": 1}', "bad_message", "Extra inputs"),
        ('{"type": "ask", "query": " "}', "bad_query", "expected some text"),
        ('{"type": "ask", "query": "\\ud800"}', "bad_message", "Invalid JSON"),
        ('{"type": "\\u001b[2Jdance"}', "bad_message", "'\N{REPLACEMENT CHARACTER}[2Jdance'"),
        ('{"type": "ask", "query": "%s"}' % ("\N{BRAIN}" * 3900), "bad_query", "tokens: expected at most 1024"),
        ('{"type": "start"}', "bad_order", "a second 'start'"),
        (b"", "bad_frame", "0 bytes"),
        (b"12345678", "bad_frame", "8 bytes"),
        (struct.pack(">d", float("nan")) + b"x", "bad_frame", "time is nan"),
        (struct.pack(">d", float("-inf")) + b"x", "bad_frame", "time is -inf"),
        (struct.pack(">d", 1.7e12) + b"x", "bad_frame", "expected seconds"),
        (pack_frame(3.0, os.urandom(5000)), "bad_frame", "unknown format"),
        (pack_frame(3.0, encoded(some_frames(1)[0], "JPEG")[:900]), "bad_frame", "damaged"),
        (pack_frame(3.0, encoded(some_frames(1, (2, 900))[0])), "bad_frame", "ratio of at most"),
        (pack_frame(0.5, encoded(some_frames(1)[0])), "time_goes_back", "from 2.5 s to 0.5 s"),
        (pack_frame(3.0, b"x" * (4 * 2**20 + 1)), "frame_too_large", "4194304 allowed"),
    ],
)
def test_garbage_gets_one_error_and_the_session_continues(garbage, code, message, server, model, processor, frames):
    if message == "ratio of at most":
        frames = frames[:0]  # later frames are fitted to the first
    elif message in ("unknown format", "damaged"):
        frames[6] = frames[7]  # the bad frame had this time, so the next frame is used for it
    expected = alone(model, processor, frames) if len(frames) else None
    with server.client() as client:
        for n, frame in enumerate(frames[:6]):
            client.show(n / 2, frame)
        if len(frames):
            client.hear_until("segment")
        client.connection.send(garbage)
        error = client.hear()
        assert (error["type"], error["code"], error["is_final"]) == ("error", code, False)
        assert message in error["message"] and len(error["message"]) < 500
        if len(frames):
            for n, frame in enumerate(frames[6:], 6):
                client.show(n / 2, frame)
            client.say({"type": "finish"})
            heard, _, _ = client.hear_all()
            assert [(m["start_s"], m["end_s"], m["text"]) for m in heard[:-1]] == expected[1:]


def png_chunk(name, data=b""):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_a_decompression_bomb_is_not_decoded(server):
    side = 20000
    pixels = zlib.compress(bytes(side * side // 8), 9)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND")
    with server.client() as client:
        client.connection.send(pack_frame(0, bomb))
        assert "pixels" in client.hear()["message"]
        bomb = encoded(torch.zeros(3, 3000, 3000, dtype=torch.uint8))
        client.connection.send(pack_frame(1, bomb))
        assert "3000x3000, with 8294400 pixels allowed" in client.hear()["message"]


def many_scans():
    """Return a progressive JPEG that repeats its last scan of 20 bytes: it takes minutes to decode."""
    image = encoded(torch.zeros(3, 2160, 3840, dtype=torch.uint8), "JPEG", progressive=True)
    return image[:-2] + image[image.rindex(b"\xff\xda") : -2] * 100_000 + image[-2:]


def many_chunks(at):
    """Return a PNG with many empty chunks: it takes seconds to read in Python."""
    image = encoded(some_frames(1)[0])
    return image[:at] + png_chunk(b"aaAa") * 300_000 + image[at:]


def many_markers():
    image = encoded(some_frames(1)[0], "JPEG")
    return image[:2] + b"\xff\xfe\0\2" * 1_000_000 + image[2:]


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        (many_scans, "scans, with 64 allowed"),
        (lambda: many_chunks(33), "more than 10000 parts"),
        (lambda: many_chunks(-12), "more than 10000 parts"),
        (many_markers, "more than 10000 parts"),
    ],
)
def test_a_small_image_that_is_slow_to_decode_is_refused(bomb, message):
    bomb, began_s = bomb(), time.thread_time()
    assert len(bomb) < 4 * 2**20
    with pytest.raises(ValueError, match=message):
        decode_image(bomb, 3840 * 2160)
    assert time.thread_time() - began_s < 0.3


def test_valid_images_with_many_chunks_are_decoded():
    noise = torch.randint(0, 256, (3, 1000, 1300), dtype=torch.uint8)
    for format, options in (("PNG", {}), ("JPEG", {"progressive": True, "quality": 95}), ("WEBP", {"lossless": True})):
        image, size_px = decode_image(encoded(noise, format, **options), 3840 * 2160)
        assert size_px == (1300, 1000) and image.shape == noise.shape


def test_frames_of_16_bits_keep_their_brightness():
    gray = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(gray.astype(np.uint16) * 257).save(file, "PNG")
    image, _ = decode_image(file.getvalue(), 10**6)
    assert np.array_equal(image.numpy(), np.broadcast_to(gray, (3, 20, 30)))


def test_a_text_that_is_too_long_is_refused(server):
    client = Client(server.url, False)
    client.say({"type": "start", "title": "\N{BRAIN}" * 100, "previous": "\N{BRAIN}" * 3900})
    heard, code, _ = client.hear_all()
    assert ([m["code"] for m in heard], code) == (["bad_start"], 1008)
    assert "query, title and previous text have" in heard[0]["message"]


def test_times_may_start_anywhere_and_jump(server, frames):
    times_s = [-1e11 + n / 2 for n in range(6)] + [1e11 - 1 + n / 2 for n in range(3)]
    with server.client() as client:
        for time_s, frame in zip(times_s, frames):
            client.show(time_s, frame)
        client.say({"type": "finish"})
        heard, code, _ = client.hear_all()
    assert code == 1000
    spans = [(m["start_s"], m["end_s"]) for m in heard if m["type"] == "segment"]
    assert spans == [(-1e11, -1e11 + 3), (1e11 - 1, 1e11), (1e11, 1e11 + 1)]


def test_one_bad_client_does_not_harm_the_others(server, model, processor, frames):
    expected = alone(model, processor, frames)
    with server.client() as good, server.client() as bad, server.client() as gone:
        for n in range(8):
            good.show(n / 2, frames[n])
            bad.connection.send(os.urandom(2000))
            gone.show(n / 2, frames[n])
        gone.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.connection.socket.close()  # a reset, in the middle of a turn
        for _ in range(20):
            with contextlib.suppress(ConnectionClosed):
                bad.connection.send(os.urandom(2000))
            time.sleep(0.005)
        for n in range(8, 16):
            good.show(n / 2, frames[n])
        good.say({"type": "finish"})
        heard, code, _ = good.hear_all()
        assert [(m["start_s"], m["end_s"], m["text"]) for m in heard[:-1]] == expected and code == 1000
        heard, code, reason = bad.hear_all()
        assert len(heard) == 11 and heard[-1]["code"] == "too_many_errors" and heard[-1]["is_final"]
        assert code == 1008 and reason.startswith("too_many_errors: ")
    wait_for(lambda: server.metric('livecc_sessions_ended_total{reason="vanished"}') >= 1)


def test_a_failing_generation_ends_only_its_session(server, model, processor, frames):
    expected = alone(model, processor, frames)
    with server.client() as first, server.client() as second:
        failing = first.show_a_first(frames[0], server)
        second.show(0, frames[0])
        for n in range(1, 6):
            first.show(n / 2, frames[n])
            second.show(n / 2, frames[n])
        said = [first.hear_until("segment"), second.hear_until("segment")]
        pool = server.service.pool
        failing._stream._sampler.processors.append(lambda *args: 1 / 0)
        n_rounds = pool.stats.n_rounds
        with pool.paused():  # so that both are decoded in one batch
            for n in (6, 7):
                first.show(n / 2, frames[n])
                second.show(n / 2, frames[n])
            wait_for(lambda: all(stream.is_ready for stream in pool.streams))
        said[1] += second.hear_until("segment")
        assert pool.stats.n_rounds <= n_rounds + 1
        for n in range(8, 16):
            second.show(n / 2, frames[n])
        second.say({"type": "finish"})
        heard, code, reason = first.hear_all()
        assert heard[-1]["code"] == "generation_failed" and "ZeroDivisionError" in heard[-1]["message"]
        assert code == 1011 and reason.startswith("generation_failed")
        heard, code, _ = second.hear_all()
        texts = [m["text"] for m in said[1] + heard if m["type"] == "segment"]
        assert texts == [text for _, _, text in expected] and code == 1000
