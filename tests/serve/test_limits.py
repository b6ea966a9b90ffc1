"""What a server allows its clients, and how it refuses more."""

import base64
import contextlib
import sys
import time
import urllib.error
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import Client, encoded, serving, some_frames, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus

from livecc_hf.serve.messages import pack_frame


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


def test_a_flood_is_refused(model, processor, frames):
    with serving(model, processor, max_messages_per_s=20.0) as server, server.client() as client:
        image = encoded(frames[0])
        with contextlib.suppress(ConnectionClosed):
            for n in range(200):
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


def test_messages_beyond_all_measure_are_not_read(server):
    with server.client() as client:
        with contextlib.suppress(ConnectionClosed):
            client.connection.send(bytes(12 * 2**20))
        assert client.hear_all()[1] in (1009, None)  # `None`: closed while it was sent, the reason lost on the way
