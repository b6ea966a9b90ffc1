"""A real server on a loopback port, and real clients: good ones, bad ones, and those that vanish."""

import base64
import contextlib
import gc
import os
import socket
import struct
import sys
import threading
import time
import urllib.error
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import OPTIONS, Client, alone, encoded, serving, some_frames, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus

from livecc_hf.serve.messages import pack_frame


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("mrope")


@pytest.fixture(scope="module")
def server(model, processor):
    with serving(model, processor) as served:
        yield served


@pytest.fixture
def frames():
    return some_frames(16)


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    yield
    if "server" in request.fixturenames:
        service = request.getfixturevalue("server").service
        wait_for(lambda: service.n_connected == 0 and len(service.pool) == 0)


def test_health_and_metrics_tell_what_goes_on(server, frames):
    import json

    health = json.loads(server.get("/health"))
    assert health["status"] == "ready" and health["max_sessions"] == 4
    assert health["warm_up_s"] > 0
    names = ("livecc_turns_total", "livecc_tokens_total", "livecc_rounds_total", "livecc_turn_latency_seconds_count")
    before = [server.metric(name) for name in (*names, 'livecc_frames_total{result="shown"}')]
    with server.client() as client:
        assert json.loads(server.get("/health"))["sessions"] == 1
        assert server.metric("livecc_sessions") == server.metric("livecc_streams") == 1
        client.watch(frames)
    grown = [server.metric(name) - b for name, b in zip((*names, 'livecc_frames_total{result="shown"}'), before)]
    assert grown[0] == grown[3] == 6
    assert grown[1] >= 6 and 1 <= grown[2] <= 6
    assert grown[4] == 16
    assert server.metric('livecc_sessions_ended_total{reason="finished"}') >= 1
    assert server.metric("livecc_lag_seconds") == 0


def test_clients_at_once_hear_what_they_hear_alone(server, model, processor, frames):
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
        assert first["text"] == expected[0].text and first["latency_s"] > 0
        client.say({"type": "ask", "query": "Other."})
        for n in (6, 7):
            client.show(n / 2, frames[n])
        second = client.hear()
        assert (second["start_s"], second["end_s"], second["text"]) == (3, 4, expected[1].text)
        assert second["n_dropped_frames"] == 0


def test_a_client_may_send_what_its_camera_has(server, model, processor, frames):
    expected = alone(model, processor, frames[:8])
    with server.client() as client:
        for n in range(8 * 15):  # 30 frames a second: the first at or after each half second counts
            frame = frames[n // 15] if n % 15 == 0 else frames[-1]
            client.connection.send(pack_frame(n / 30, encoded(frame)))
        client.say({"type": "finish"})
        heard, code, _ = client.hear_all()
    assert code == 1000
    assert [(m["start_s"], m["end_s"], m["text"]) for m in heard[:-1]] == expected
    assert server.metric('livecc_frames_total{result="skipped"}') >= 8 * 14


def test_jpeg_and_webp(server, frames):
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
        ('{"type": "start"}', "bad_order", "a second 'start'"),
        (b"", "bad_frame", "0 bytes"),
        (b"12345678", "bad_frame", "8 bytes"),
        (struct.pack(">d", float("nan")) + b"x", "bad_frame", "time is nan"),
        (struct.pack(">d", 1.7e12) + b"x", "bad_frame", "expected seconds"),
        (pack_frame(3.0, os.urandom(5000)), "bad_frame", "unknown format"),
        (pack_frame(3.0, encoded(some_frames(1)[0], "JPEG")[:900]), "bad_frame", "damaged"),
        (pack_frame(3.0, encoded(some_frames(1, (2, 900))[0])), "bad_frame", "ratio of at most"),
        (pack_frame(0.5, encoded(some_frames(1)[0])), "time_goes_back", "from 2.5 s to 0.5 s"),
        (pack_frame(3.0, b"x" * (4 * 2**20 + 1)), "frame_too_large", "4194304 allowed"),
    ],
)
def test_garbage_gets_one_error_and_the_session_goes_on(garbage, code, message, server, model, processor, frames):
    if message == "ratio of at most":
        frames = frames[:0]  # later frames are fitted to the first
    elif message in ("unknown format", "damaged"):
        frames[6] = frames[7]  # its time is taken by the one that was bad, so the next frame stands for it
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


def test_frames_before_start_and_after_finish_are_told(server, frames):
    client = Client(server.url, False)
    client.show(0, frames[0])
    assert client.hear()["code"] == "bad_order"
    client.say({"type": "start"})
    assert client.hear()["type"] == "started"
    with server.service.pool._round:  # or the session might have ended
        client.say({"type": "finish"})
        client.show(0, frames[0])
        error = client.hear()
        assert error["code"] == "finished" and not error["is_final"]
    assert client.hear_all()[1] == 1000


def test_a_bomb_is_not_decoded(server):
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    side = 20000
    pixels = zlib.compress(bytes(side * side // 8), 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    with server.client() as client:
        client.connection.send(pack_frame(0, bomb))
        assert "pixels" in client.hear()["message"]
        bomb = encoded(torch.zeros(3, 3000, 3000, dtype=torch.uint8))
        client.connection.send(pack_frame(1, bomb))
        assert "3000x3000, with 8294400 pixels allowed" in client.hear()["message"]


def test_frames_that_change_size_are_fitted_with_a_notice(server, frames):
    wide = some_frames(16, (56, 140))
    with server.client() as client:
        for n in range(12):
            client.show(n / 2, frames[n] if n < 3 else wide[n])
        heard = [client.hear() for _ in range(5)]
    notices = [m for m in heard if m["type"] == "notice"]
    assert [m["code"] for m in notices] == ["size_changed"]
    assert "140x56 pixels now, 84x56 before" in notices[0]["message"]
    assert sum(m["type"] == "segment" for m in heard) == 4


def test_a_frame_of_another_size_is_scaled_with_bars():
    from livecc_hf.serve.images import decode_image

    image, sent = decode_image(encoded(torch.full((3, 20, 40), 200, dtype=torch.uint8)), 10**6, (40, 40))
    assert image.shape == (3, 40, 40) and sent == (40, 20)
    assert image[:, :10].max() == 0 and image[:, 30:].max() == 0 and image[:, 10:30].min() == 200


def test_a_gap_moves_the_time_on(server, frames):
    with server.client() as client:
        times = [n / 2 for n in range(7)] + [30 + n / 2 for n in range(5)]
        for n, time_s in enumerate(times):
            client.show(time_s, frames[n])
        client.say({"type": "finish"})
        heard, _, _ = client.hear_all()
    spans = [(m["start_s"], m["end_s"]) for m in heard if m["type"] == "segment"]
    assert spans == [(0, 3), (3, 4), (30, 31), (31, 32), (32, 33)]


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
            bad.connection.send(os.urandom(2000)) if bad.connection.state.name == "OPEN" else None
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


def test_a_generation_that_fails_ends_its_session_only(server, model, processor, frames, monkeypatch):
    expected = alone(model, processor, frames)
    with server.client() as first, server.client() as second:
        for n in range(6):
            first.show(n / 2, frames[n])
            second.show(n / 2, frames[n])
        said = [first.hear_until("segment"), second.hear_until("segment")]
        pool = server.service.pool
        monkeypatch.setattr(pool.streams[0]._stream._chooser, "choose", lambda *args: 1 / 0)
        n_rounds = pool.stats.n_rounds
        with pool._round:  # so that both speak in one batch
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


def test_a_full_server_refuses_clearly(server):
    clients = [server.client() for _ in range(4)]
    try:
        heard, code, reason = Client(server.url, False).hear_all()
        assert code == 1013 and reason.startswith("full: the server has 4 clients")
        assert heard[0]["code"] == "full" and heard[0]["is_final"]
        assert server.metric('livecc_refusals_total{reason="full"}') >= 1
    finally:
        for client in clients:
            client.connection.close()
    wait_for(lambda: server.service.n_connected == 0)
    with server.client():
        pass


def test_limits_of_rate_length_and_silence(model, processor, frames):
    limits = {"max_messages_per_s": 10.0, "max_session_s": 1.5, "start_timeout_s": 0.3, "idle_timeout_s": 0.5}
    with serving(model, processor, **limits) as server:
        silent = Client(server.url, False)
        heard, code, reason = silent.hear_all()
        assert (heard[-1]["code"], code) == ("not_started", 1008) and "0.3 s" in reason
        with server.client() as idle:
            heard, code, _ = idle.hear_all()
            assert (heard[-1]["code"], code) == ("idle", 1008)
        with server.client() as flood:
            for _ in range(40):
                flood.connection.send(pack_frame(0, b"x")) if flood.connection.state.name == "OPEN" else None
            heard, code, _ = flood.hear_all()
            assert heard[-1]["code"] in ("too_fast", "too_many_errors") and code == 1008
        with server.client() as long:
            for n in range(40):
                if long.connection.state.name == "OPEN":
                    long.show(n / 10, frames[0])
                time.sleep(0.15)
                if n > 12:
                    break
            heard, code, _ = long.hear_all()
            assert (heard[-1]["code"], code) == ("session_too_long", 1008)


def test_a_flood_is_refused(model, processor, frames):
    with serving(model, processor, max_messages_per_s=20.0) as server, server.client() as client:
        image = encoded(frames[0])
        for n in range(200):
            if client.connection.state.name != "OPEN":
                break
            client.connection.send(pack_frame(n / 100, image))
        heard, code, reason = client.hear_all()
        assert heard[-1]["code"] == "too_fast" and code == 1008
        assert reason.startswith("too_fast: more than 20 messages")


@pytest.mark.parametrize("overload", ["drop", "refuse"])
def test_what_comes_too_fast_for_the_model_is_dropped_or_refused(overload, model, processor):
    frames = some_frames(60, (28, 56))
    results = ["shown", "dropped", "refused"]
    with serving(model, processor, overload=overload, max_lag_s=1.0) as server, server.client() as client:
        counts = [server.service.metrics.frames.labels(result)._value for result in results]
        with server.service.pool._round:  # the model speaks to somebody else all the time
            for n, frame in enumerate(frames):
                client.show(n / 2, frame)
                wait_for(lambda n=n: counts[0].get() + counts[2].get() == n + 1)  # dropped ones were shown before
            assert server.metric("livecc_lag_seconds") == 4  # a turn, and the lag allowed
        client.say({"type": "finish"})
        heard, code, _ = client.hear_all()
        assert code == 1000
        spans = [(m["start_s"], m["end_s"]) for m in heard if m["type"] == "segment"]
        n_shown, n_dropped, n_refused = (server.metric(f'livecc_frames_total{{result="{r}"}}') for r in results)
        if overload == "drop":
            assert (n_shown, n_dropped, n_refused) == (60, 52, 0)
            assert spans == [(26, 29), (29, 30)]  # the newest are heard
            assert heard[-1]["n_dropped_frames"] == 52
        else:
            assert (n_shown, n_dropped, n_refused) == (8, 0, 52)
            assert spans == [(0, 3), (3, 4)]
            assert [m["code"] for m in heard if m["type"] == "notice"] == ["overloaded"] * 52


def test_a_token_is_asked_for(model, processor):
    with serving(model, processor, token="sesam öffne dich") as server:
        token = "sesam öffne dich".encode()
        encoded_token = base64.urlsafe_b64encode(token).decode().rstrip("=")
        good = {"Authorization": "Bearer sesam öffne dich".encode().decode("latin-1")}
        for options in ({}, {"additional_headers": {"Authorization": "Bearer no"}}, {"subprotocols": ["livecc.v1"]}):
            with pytest.raises(InvalidStatus) as refused:
                Client(server.url, False, **options)
            assert refused.value.response.status_code == 401
            assert b"Authorization: Bearer TOKEN" in refused.value.response.body
        with server.client(subprotocols=["livecc.v1", f"livecc.bearer.{encoded_token}"]) as client:
            assert client.connection.subprotocol == "livecc.v1"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.get("/metrics")
        assert "livecc_refusals_total" in server.get("/metrics", good)
        assert "ready" in server.get("/health")


def test_a_client_that_does_not_read_is_given_up(model, processor, monkeypatch):
    monkeypatch.setattr("livecc_hf.serve.session._FAREWELL_S", 0.3)
    monkeypatch.setattr("livecc_hf.serve.server._LINGER_S", 0.3)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    limits = {"max_unread": 8, "max_errors": 10**6, "max_messages_per_s": 1e5}
    with serving(model, processor, listener=listener, **limits) as server:
        before = _n_handles()
        deaf = _raw_client(server.port)
        _send_raw(deaf, 1, b'{"type": "start"}')
        deaf.settimeout(0.2)
        with contextlib.suppress(OSError):
            for _ in range(20000):
                _send_raw(deaf, 1, b'{"type": "' + b"d" * 250 + b'"}')
        ended = 'livecc_sessions_ended_total{reason="slow_reader"}'
        wait_for(lambda: server.metric(ended) == 1)
        wait_for(lambda: server.service.n_connected == 0)
        wait_for(lambda: _n_handles() == before + 1)  # our side of it; the other is closed, unsent words or not
        deaf.close()


def test_messages_beyond_all_measure_are_not_read(server):
    with server.client() as client:
        with contextlib.suppress(ConnectionClosed):
            client.connection.send(bytes(12 * 2**20))
        assert client.hear_all()[1] in (1009, None)  # `None`: closed while it was sent, the reason lost on the way


def test_half_open_connections_are_found_by_their_silence(model, processor, frames):
    with serving(model, processor, ping_timeout_s=0.3) as server:
        frozen = _raw_client(server.port)  # answers no ping, as a machine that lost its power
        _send_raw(frozen, 1, b'{"type": "start"}')
        wait_for(lambda: server.service.n_connected == 1)
        wait_for(lambda: server.service.n_connected == 0 and len(server.service.pool) == 0, 5)
        frozen.close()


def test_stopping_the_server_closes_sessions(model, processor, frames):
    before = set(threading.enumerate())
    with serving(model, processor) as server:
        client = server.client()
        for n in range(8):
            client.show(n / 2, frames[n])
    _, code, _ = client.hear_all()
    assert code == 1012
    assert server.service.state == "stopping"
    assert set(threading.enumerate()) - before <= {client.connection.recv_events_thread}


def _sessions(server, n_sessions, frames):
    """Clients that come, are heard, and go in four ways."""
    files = [encoded(frame) for frame in frames[:7]]
    for n in range(n_sessions):
        with server.client() as client:
            for m, file in enumerate(files):
                client.connection.send(pack_frame(m / 2, file))
            if n % 4 == 0:
                client.hear_until("segment")
            elif n % 4 == 1:
                client.say({"type": "finish"})
                client.hear_all()
            elif n % 4 == 2:
                client.connection.send(b"garbage")
                client.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.connection.socket.close()
        wait_for(lambda: server.service.n_connected < 3)
    wait_for(lambda: server.service.n_connected == 0 and len(server.service.pool) == 0)
    gc.collect()


@pytest.mark.parametrize("n_sessions", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_sessions_leave_nothing_behind(n_sessions, server, frames):
    _sessions(server, 12 if n_sessions == 60 else 100, frames)
    before = _resident_bytes(), _n_handles(), threading.active_count()
    _sessions(server, n_sessions, frames)
    wait_for(lambda: _n_handles() <= before[1])
    wait_for(lambda: threading.active_count() <= before[2])
    assert _resident_bytes() - before[0] < 30e6


def _raw_client(port):
    """A WebSocket connection that does nothing of itself."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port))
    raw.sendall(
        b"GET /v1/commentary HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += raw.recv(1)
    assert b" 101 " in answer
    return raw


def _send_raw(raw, opcode, data):
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    raw.sendall(bytes([0x80 | opcode]) + length + b"\0\0\0\0" + data)


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _n_handles():
    return len(list(Path("/proc/self/fd").iterdir()))
