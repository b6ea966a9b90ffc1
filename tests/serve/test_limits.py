"""Limits of a server: full, too fast, too large, token."""

import base64
import contextlib
import socket
import sys
import time
import urllib.error
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import OPTIONS, Client, alone, encoded, serving, some_frames, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus

from livecc_hf.serve.client_stream import ClientStream
from livecc_hf.serve.messages import Start, pack_frame
from livecc_hf.serve.sampling import ClientFrameSampler, Frame
from livecc_hf.serve.service import CommentaryService
from livecc_hf.serve.settings import ServeSettings


def test_a_full_server_refuses_clearly(server, frames):
    clients = [server.client() for _ in range(5)]
    try:
        for client in clients[:4]:
            client.show_a_first(frames[0], server)
        clients[4].show(0, frames[0])  # connected before the others had sent a frame
        heard, code, reason = clients[4].hear_all()
        assert code == 1013 and reason.startswith("full: the server has 4 clients")
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


def test_silent_clients_hold_no_slots(model, processor, frames):
    with serving(model, processor, max_sessions=2, start_timeout_s=5.0) as server:
        silent = [server.client({"query": "Comment."}) for _ in range(6)]
        silent += [Client(server.url, False) for _ in range(6)]  # these do not send a start message
        for client in silent[:3]:
            client.say({"type": "ask", "query": "What moves?"})
        expected = alone(model, processor, frames)
        with server.client() as speaks:
            assert speaks.watch(frames) == expected
        with silent[0] as late:  # and a silent client can still start
            assert late.watch(frames) == alone(model, processor, frames, query="What moves?")
        for n in range(2):  # bad frames take no slot
            silent[n + 1].show(0, some_frames(1, (2, 900))[0])
            assert silent[n + 1].hear()["code"] == "bad_frame"
        assert len(server.service.pool) == 0
        with silent[4] as late:
            assert late.watch(frames) == alone(model, processor, frames, query="Comment.")
        for client in silent:
            client.connection.close()


def test_only_new_frames_keep_a_slot(model, processor, frames):
    """Queries, pings, repeated frames and data that is not an image do not count."""
    limits = {"max_sessions": 1, "idle_timeout_s": 1.0, "max_errors": 10**6}
    with serving(model, processor, **limits) as server, server.client() as client:
        client.show_a_first(frames[0], server)
        began_s = time.monotonic()
        with contextlib.suppress(ConnectionClosed):
            while time.monotonic() < began_s + 10:
                client.connection.ping()
                client.say({"type": "ask", "query": "What moves?"})
                client.show(0, frames[0])
                client.connection.send(b"\0" * 8 + b"no image")
                time.sleep(0.1)
        heard, code, reason = client.hear_all()
        assert (heard[-1]["code"], code) == ("idle", 1008) and reason == "idle: no new frame for 1 s: connect again"
        assert time.monotonic() - began_s < 8
        wait_for(lambda: server.service.n_connected == 0)
        with server.client() as other:  # at the slowest rate allowed
            for n in range(4):
                other.show(n / 2, frames[n])
                time.sleep(0.6)
            other.say({"type": "finish"})
            assert other.hear_all()[1] == 1000


def test_clients_without_frames_are_disconnected(model, processor):
    with serving(model, processor, idle_timeout_s=0.6, start_timeout_s=0.6) as server:
        began_s = time.monotonic()
        clients = [server.client() for _ in range(3)]
        for client in clients:
            heard, code, _ = client.hear_all()
            assert ([m["code"] for m in heard], code) == (["idle"], 1008)
        assert 0.5 < time.monotonic() - began_s < 8
        with server.client() as client:
            client.say({"type": "finish"})
            assert client.hear_all()[0][-1]["type"] == "end"


def test_one_address_cannot_take_all_slots(model, processor, frames):
    with serving(model, processor, max_sessions=3, max_sessions_per_address=2) as server:
        mine = [server.client() for _ in range(2)]
        for client in mine:
            client.show_a_first(frames[0], server)
        heard, code, reason = Client(server.url, False).hear_all()
        assert code == 1013 and heard[0]["code"] == "full_for_address"
        assert reason.startswith("full_for_address: 2 clients are connected from your address, which is the limit")
        elsewhere = socket.create_connection(("127.0.0.1", server.port), 10, source_address=("127.0.0.2", 0))
        with server.client(sock=elsewhere) as client:
            assert len(client.watch(frames)) == 6
        # Behind a proxy on this machine, which uvicorn trusts.
        with server.client(additional_headers={"X-Forwarded-For": "192.0.2.7"}) as client:
            assert len(client.watch(frames)) == 6
        mine[0].connection.close()
        wait_for(lambda: server.service.n_connected == 1)
        with server.client() as client:
            assert len(client.watch(frames)) == 6
        mine[1].connection.close()


def test_message_rate_session_length_and_silence_are_limited(model, processor, frames):
    limits = {"max_messages_per_s": 10.0, "max_session_s": 1.5, "start_timeout_s": 0.3, "idle_timeout_s": 0.5}
    with serving(model, processor, **limits) as server:
        silent = Client(server.url, False)
        heard, code, reason = silent.hear_all()
        assert (heard[-1]["code"], code) == ("not_started", 1008) and "0.3 s" in reason
        with server.client() as idle:
            heard, code, _ = idle.hear_all()
            assert (heard[-1]["code"], code) == ("idle", 1008)
        with server.client() as flood:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(40):
                    flood.connection.send(pack_frame(0, b"x"))
            heard, code, _ = flood.hear_all()
            assert heard[-1]["code"] in ("too_fast", "too_many_errors") and code == 1008
        with server.client() as long:
            with contextlib.suppress(ConnectionClosed):
                for n in range(14):
                    long.show(n / 10, frames[0])
                    time.sleep(0.15)
            heard, code, _ = long.hear_all()
            assert (heard[-1]["code"], code) == ("session_too_long", 1008)


def test_a_flood_of_messages_is_refused(model, processor, frames):
    with serving(model, processor, max_messages_per_s=20.0) as server, server.client() as client:
        image = encoded(frames[0])
        with contextlib.suppress(ConnectionClosed):
            for n in range(200):
                client.connection.send(pack_frame(n / 100, image))
        heard, code, reason = client.hear_all()
        assert heard[-1]["code"] == "too_fast" and code == 1008
        assert reason.startswith("too_fast: more than 20 messages")


@pytest.mark.parametrize("overload", ["drop", "refuse"])
def test_frames_that_arrive_too_fast_are_dropped_or_refused(overload, model, processor):
    frames = some_frames(60, (28, 56))
    results = ["shown", "dropped", "refused"]
    with serving(model, processor, overload=overload, max_lag_s=1.0) as server, server.client() as client:
        counts = [server.service.metrics.frames.labels(result)._value for result in results]
        with server.service.pool.paused():  # the model is busy with other streams
            for n, frame in enumerate(frames):
                client.show(n / 2, frame)
                wait_for(lambda n=n: counts[0].get() + counts[2].get() == n + 1)  # dropped ones count as shown too
            assert server.metric("livecc_lag_seconds") == 4  # a turn and the allowed lag
        client.say({"type": "finish"})
        heard, code, _ = client.hear_all()
        assert code == 1000
        spans = [(m["start_s"], m["end_s"]) for m in heard if m["type"] == "segment"]
        n_shown, n_dropped, n_refused = (server.metric(f'livecc_frames_total{{result="{r}"}}') for r in results)
        if overload == "drop":
            assert (n_shown, n_dropped, n_refused) == (60, 52, 0)
            assert spans == [(26, 29), (29, 30)]  # the newest frames
            assert heard[-1]["n_dropped_frames"] == 52
        else:
            assert (n_shown, n_dropped, n_refused) == (8, 0, 52)
            assert spans == [(0, 3), (3, 4)]
            assert [m["code"] for m in heard if m["type"] == "notice"] == ["overloaded"] * 52


def test_latency_counts_from_the_sampled_frame(model, processor):
    """A refused frame's sampling times go to the next one; its arrival must not count."""
    service = CommentaryService(model, processor, ServeSettings(overload="refuse", max_lag_s=1.0), OPTIONS)
    sampler, segments = ClientFrameSampler(), []
    stream = ClientStream(service, sampler, segments.append, lambda error: None)
    stream.start(Start(type="start"))
    image = encoded(some_frames(1, (28, 56))[0])

    def show(time_s, arrived_s):
        assert sampler.wants(time_s)
        return stream.show(Frame(time_s, image, arrived_s))

    assert [show(n / 2, 10 + n) for n in range(8)] == [None] * 8
    assert [show(4 + n / 2, 100 + n)["code"] for n in range(3)] == ["overloaded"] * 3
    while service.pool.step():
        pass
    assert show(5.5, 200) is None
    while service.pool.step():
        pass
    arrivals_s = [stream.arrival_s(segment)[0] for segment in segments]
    assert [segment.end_s for segment in segments] == [3, 4, 5, 6] and arrivals_s == [15, 17, 200, 200]
    stream.leave()
    service.stop()


def test_a_token_is_required(model, processor):
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


def test_huge_messages_are_not_read(server):
    with server.client() as client:
        with contextlib.suppress(ConnectionClosed):
            client.connection.send(bytes(12 * 2**20))
        assert client.hear_all()[1] in (
            1009,
            None,
        )  # `None`: reset while sending, the reason is lost
