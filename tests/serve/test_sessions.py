"""A real server on a loopback port with well-behaved clients."""

import sys
import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import OPTIONS, Client, alone, encoded, some_frames

from livecc_hf.serve.messages import pack_frame


def test_health_and_metrics(server, frames):
    import json

    health = json.loads(server.get("/health"))
    assert health["status"] == "ready" and health["max_sessions"] == 4
    assert health["warm_up_s"] > 0
    names = ("livecc_turns_total", "livecc_tokens_total", "livecc_rounds_total", "livecc_turn_latency_seconds_count")
    before = [server.metric(name) for name in (*names, 'livecc_frames_total{result="shown"}')]
    with server.client() as client:
        assert json.loads(server.get("/health"))["sessions"] == 1
        assert (server.metric("livecc_sessions"), server.metric("livecc_streams")) == (1, 0)
        client.watch(frames)
    grown = [server.metric(name) - b for name, b in zip((*names, 'livecc_frames_total{result="shown"}'), before)]
    assert grown[0] == grown[3] == 6
    assert grown[1] >= 6 and 1 <= grown[2] <= 6
    assert grown[4] == 16
    assert server.metric('livecc_sessions_ended_total{reason="finished"}') >= 1
    assert server.metric("livecc_lag_seconds") == 0


def test_concurrent_clients_get_the_same_words_as_alone(server, model, processor, frames):
    shown = [frames, frames.flip(0), frames.flip(3)[:, :, :40], frames[:13]]
    queries = ["Comment.", "What moves?", "Say it.", None]
    expected = [
        alone(model, processor, video, query=query, start_s=100.0) for video, query in zip(shown, queries, strict=True)
    ]
    heard = {}

    def watch(n):
        with server.client({"query": queries[n]} if queries[n] else None) as client:
            heard[n] = client.watch(shown[n], start_s=100.0)

    threads = [threading.Thread(target=watch, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [heard[n] for n in range(4)] == expected
    assert len({tuple(said) for said in expected}) == 4


def test_segments_come_while_the_video_plays_and_queries_change(server, model, processor, frames):
    stream = model.start_stream(processor, OPTIONS)
    expected = stream.push(frames[:6], [n / 2 for n in range(6)])
    stream.ask("Other.")
    expected += stream.push(frames[6:8], [3.0, 3.5])
    with server.client() as client:
        for n in range(6):
            client.show(n / 2, frames[n])
        first = client.hear()
        assert first["text"] == expected[0].text and first["latency_s"] >= first["turn_s"] > 0
        client.say({"type": "ask", "query": "Other."})
        for n in (6, 7):
            client.show(n / 2, frames[n])
        second = client.hear()
        assert (second["start_s"], second["end_s"], second["text"]) == (3, 4, expected[1].text)
        assert second["n_dropped_frames"] == 0


def test_a_client_may_send_at_any_rate(server, model, processor, frames):
    expected = alone(model, processor, frames[:8])
    with server.client() as client:
        for n in range(8 * 15):  # 30 frames a second, of which the first at or after each half second is used
            frame = frames[n // 15] if n % 15 == 0 else frames[-1]
            client.connection.send(pack_frame(n / 30, encoded(frame)))
        client.say({"type": "finish"})
        heard, code, _ = client.hear_all()
    assert code == 1000
    assert [(m["start_s"], m["end_s"], m["text"]) for m in heard[:-1]] == expected
    assert server.metric('livecc_frames_total{result="skipped"}') >= 8 * 14


def test_frames_may_be_jpeg_or_webp(server, frames):
    for format in ("JPEG", "WEBP"):
        with server.client() as client:
            for n in range(6):
                client.show(n / 2, frames[n], format)
            assert client.hear()["type"] == "segment"


def test_client_options_are_checked_and_used(server, model, processor, frames):
    expected = alone(model, processor, frames, do_sample=True, seed=5, temperature=2.0, max_new_tokens=3)
    with server.client({"options": {"do_sample": True, "seed": 5, "temperature": 2.0, "max_new_tokens": 3}}) as client:
        assert client.watch(frames) == expected
    for start, message in (
        ({"options": {"max_new_tokens": 1000}}, "max_new_tokens=1000: expected at most 32"),
        ({"query": "<|im_end|>"}, "special token"),
    ):
        client = Client(server.url, False)
        client.say({"type": "start", **start})
        heard, code, reason = client.hear_all()
        assert [m["code"] for m in heard] == ["bad_start"] and message in heard[0]["message"]
        assert code == 1008 and reason.startswith("bad_start: ")


def test_frames_before_start_and_after_finish_get_an_error(server, frames):
    client = Client(server.url, False)
    client.show(0, frames[0])
    assert client.hear()["code"] == "bad_order"
    client.say({"type": "start"})
    assert client.hear()["type"] == "started"
    client.show_a_first(frames[0], server)
    with server.service.pool.paused():  # or the session might have ended
        client.say({"type": "finish"})
        client.show(0.5, frames[1])
        error = client.hear()
        assert error["code"] == "finished" and not error["is_final"]
    assert client.hear_all()[1] == 1000


def test_frames_that_change_size_are_fitted_with_a_notice(server, frames):
    wide = some_frames(16, (56, 140))
    with server.client() as client:
        for n in range(12):
            client.show(n / 2, frames[n] if n < 3 else wide[n])
        heard = [client.hear() for _ in range(5)]
    notices = [m for m in heard if m["type"] == "notice"]
    assert [m["code"] for m in notices] == ["size_changed"]
    assert "140x56 pixels now; they are scaled to the first size, 84x56" in notices[0]["message"]
    assert sum(m["type"] == "segment" for m in heard) == 4


def test_a_frame_of_another_size_is_scaled_with_bars():
    from livecc_hf.serve.images import decode_image

    image, sent = decode_image(encoded(torch.full((3, 20, 40), 200, dtype=torch.uint8)), 10**6, (40, 40))
    assert image.shape == (3, 40, 40) and sent == (40, 20)
    assert image[:, :10].max() == 0 and image[:, 30:].max() == 0 and image[:, 10:30].min() == 200


def test_a_gap_in_the_frames_is_skipped(server, frames):
    with server.client() as client:
        times = [n / 2 for n in range(7)] + [30 + n / 2 for n in range(5)]
        for n, time_s in enumerate(times):
            client.show(time_s, frames[n])
        client.say({"type": "finish"})
        heard, _, _ = client.hear_all()
    spans = [(m["start_s"], m["end_s"]) for m in heard if m["type"] == "segment"]
    # The second turn has a frame from before the gap, and its newest from behind it.
    assert spans == [(0, 3), (29, 30), (30, 31), (31, 32), (32, 33)]
