"""Clients that vanish, freeze or are disconnected leave nothing behind."""

import contextlib
import gc
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import Client, encoded, n_handles, raw_client, resident_bytes, send_raw, serving, wait_for

from livecc_hf.serve.messages import pack_frame


def test_a_client_that_does_not_read_is_disconnected(model, processor, monkeypatch):
    monkeypatch.setattr("livecc_hf.serve.outbox._FAREWELL_S", 0.3)
    monkeypatch.setattr("livecc_hf.serve.protocols._LINGER_S", 0.3)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    limits = {"max_unread": 8, "max_errors": 10**6, "max_messages_per_s": 1e5}
    with serving(model, processor, listener=listener, **limits) as server:
        before = n_handles()
        deaf = raw_client(server.port)
        send_raw(deaf, 1, b'{"type": "start"}')
        deaf.settimeout(0.2)
        with contextlib.suppress(OSError):
            for _ in range(20000):
                send_raw(deaf, 1, b'{"type": "' + b"d" * 250 + b'"}')
        ended = 'livecc_sessions_ended_total{reason="slow_reader"}'
        wait_for(lambda: server.metric(ended) == 1)
        wait_for(lambda: server.service.n_connected == 0)
        wait_for(lambda: n_handles() == before + 1)  # the client's socket; the server has closed its own
        deaf.close()


def test_half_open_connections_are_detected_by_pings(model, processor, frames):
    with serving(model, processor, ping_timeout_s=0.3) as server:
        frozen = raw_client(server.port)  # answers no ping, like a machine without power
        send_raw(frozen, 1, b'{"type": "start"}')
        wait_for(lambda: server.service.n_connected == 1)
        wait_for(lambda: server.service.n_connected == 0 and len(server.service.pool) == 0, 5)
        frozen.close()


def test_stopping_the_server_closes_sessions(model, processor, frames):
    before = set(threading.enumerate())
    with serving(model, processor) as server:
        clients = [server.client(), Client(server.url, False)]  # one has not started
        for n in range(8):
            clients[0].show(n / 2, frames[n])
        clients[0].hear_until("segment")
    for client in clients:
        heard, code, reason = client.hear_all()
        said = [m for m in heard if m["type"] == "error"]
        assert [(m["code"], m["is_final"]) for m in said] == [("stopping", True)] and said == heard[-1:]
        assert code == 1012 and reason == "stopping: the server stops: connect again later"
    assert server.service.state == "stopping"
    assert set(threading.enumerate()) - before <= {client.connection.recv_events_thread for client in clients}


def test_a_stopping_server_does_not_wait_for_clients_that_do_not_read(model, processor, frames, monkeypatch):
    monkeypatch.setattr("livecc_hf.serve.outbox._FAREWELL_S", 0.3)
    monkeypatch.setattr("livecc_hf.serve.protocols._LINGER_S", 0.3)
    with serving(model, processor) as server:
        frozen = raw_client(server.port)
        send_raw(frozen, 1, b'{"type": "start"}')
        half = socket.create_connection(("127.0.0.1", server.port))
        half.sendall(b"GET /he")
        wait_for(lambda: server.service.n_connected == 1)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 8
    frozen.close()
    half.close()


def test_clients_that_leave_and_that_vanish_are_counted_separately(server):
    endings = [server.service.metrics.endings.labels(reason)._value for reason in ("left", "vanished")]
    before = [value.get() for value in endings]
    with server.client():
        pass
    wait_for(lambda: endings[0].get() == before[0] + 1)
    raw = raw_client(server.port)
    wait_for(lambda: server.service.n_connected == 1)
    raw.close()
    wait_for(lambda: endings[1].get() == before[1] + 1)


def _sessions(server, n_sessions, frames):
    """Clients that connect, send frames, and disconnect in four ways."""
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
def test_ended_sessions_leak_nothing(n_sessions, server, frames):
    _sessions(server, 12 if n_sessions == 60 else 100, frames)
    service = server.service
    all_up = threading.Barrier(service.settings.decode_threads)  # the executor starts a thread only when none is idle
    list(service.threads.map(lambda _: all_up.wait(10), range(all_up.parties)))
    before = resident_bytes(), n_handles(), threading.active_count()
    _sessions(server, n_sessions, frames)
    wait_for(lambda: n_handles() <= before[1])
    wait_for(lambda: threading.active_count() <= before[2])
    assert resident_bytes() - before[0] < 30e6
