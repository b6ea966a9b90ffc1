"""Limits of connections: idle, wasteful and too many ones are refused or closed, with the reason."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import Client, raw_client, send_raw, serving, wait_for
from websockets.exceptions import InvalidStatus

from livecc_hf.serve.addresses import network_of

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def patient(monkeypatch):
    """A server with long timeouts, for clients on a busy machine."""
    monkeypatch.setattr("livecc_hf.serve.protocols._REFUSAL_S", 10.0)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("livecc_hf.serve.protocols._REFUSAL_S", 0.2)


def opened(server, address="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", server.port), 10, source_address=(address, 0))


def everything_from(connection):
    heard = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(4096):
            heard += part
    return heard.decode(errors="replace")


def refused(server, reason):
    return server.service.metrics.refusals.labels(reason)._value.get()


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/config", "/clip.mp4"])
def test_head_requests_get_the_headers_of_get(path, server):
    def answer(method):
        with opened(server) as connection:
            request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            head, _, body = everything_from(connection).partition("\r\n\r\n")
        return [line for line in head.splitlines() if not line.startswith(("date:", "content-length:"))], body

    (headers, body), (expected, _) = answer("HEAD"), answer("GET")
    assert headers == expected and headers[0] == "HTTP/1.1 200 OK"
    assert body == ""


def test_a_connection_without_a_request_is_closed(model, processor, impatient):
    with serving(model, processor, start_timeout_s=0.6) as server:
        began_s = time.monotonic()
        silent, slow, late = opened(server), opened(server), opened(server)
        slow.sendall(b"GET /health HT")
        late.sendall(HEALTH)  # answered, and kept alive for a while
        answer = late.recv(4096)
        assert b"200 OK" in answer
        assert everything_from(silent) == ""
        assert everything_from(slow).startswith("HTTP/1.1 408 Request Timeout")
        assert everything_from(late) == ""
        assert 0.5 < time.monotonic() - began_s < 6
        with server.client():
            time.sleep(0.8)  # sessions have no such time limit
            assert server.service.n_connected == 1


def test_a_response_is_sent_for_as_long_as_the_client_reads(model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("livecc_hf.serve.protocols._LINGER_S", 0.3)
    clip, n_bytes = tmp_path / "long.mp4", 30_000_000  # more than the buffers of a connection
    clip.write_bytes(bytes(n_bytes))
    with serving(model, processor, clip=clip, start_timeout_s=0.3) as server:
        reads, stops = opened(server), opened(server)
        for connection in (reads, stops):
            connection.sendall(HEALTH.replace(b"/health", b"/clip.mp4"))
        slow_until_s, n_read = time.monotonic() + 1.2, 0  # longer than all limits together
        while n_read < n_bytes and (part := reads.recv(250_000)):
            n_read += len(part)
            time.sleep(0.02 if time.monotonic() < slow_until_s else 0)
        assert n_read >= n_bytes
        assert len(everything_from(stops)) < n_bytes
        reads.close()


def test_long_headers_are_refused(server):
    with opened(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for _ in range(10000):
                connection.sendall(b"x: " + b"y" * 1000 + b"\r\n")
            raise AssertionError("10 MB of headers were read")
        assert everything_from(connection)[:12] in (
            "HTTP/1.1 431",
            "",
        )  # `""`: lost, as the client continued to send


def test_too_many_connections_are_refused_clearly(model, processor, patient):
    limits = {"max_sessions": 1, "max_other_connections": 4, "max_connections_per_address": 3}
    with serving(model, processor, **limits) as server:
        held = [opened(server) for _ in range(3)]
        with opened(server) as fourth:
            fourth.sendall(HEALTH)
            answer = everything_from(fourth)
            assert answer.startswith("HTTP/1.1 503 Service Unavailable")
            assert "3 connections come from your address, which is the limit" in answer
        with pytest.raises(InvalidStatus) as error:
            Client(server.url, False)
        assert error.value.response.status_code == 503 and b"from your address" in error.value.response.body
        assert refused(server, "connections_of_address") == 2
        held += [opened(server, "127.0.0.2") for _ in range(2)]
        with opened(server, "127.0.0.3") as sixth:
            sixth.sendall(HEALTH)
            assert "the server has 5 connections, which is its limit" in everything_from(sixth)
        assert refused(server, "connections") == 1
        for connection in held:
            connection.close()
        with server.client() as client:  # counted once, also after it has become a WebSocket
            client.say({"type": "finish"})
            assert client.hear_all()[1] == 1000
        for _ in range(6):
            assert "ready" in server.get("/health")


def test_refused_connections_do_not_pile_up(model, processor, monkeypatch, patient):
    monkeypatch.setattr("livecc_hf.serve.protocols._MAX_REFUSALS", 4)
    with serving(model, processor, max_connections_per_address=1) as server:
        held = [opened(server) for _ in range(12)]
        wait_for(lambda: refused(server, "connections_of_address") == 11)
        for connection in held[1:]:
            with contextlib.suppress(OSError):
                connection.sendall(HEALTH)
        answers = [everything_from(connection) for connection in held[1:]]
        assert sum(answer.startswith("HTTP/1.1 503") for answer in answers) == 4
        assert set(answers) - {answers[0]} == {""}
        for connection in held:
            connection.close()
        wait_for(lambda: "ready" in server.get("/health"))


def test_a_flood_of_pings_ends_the_connection(server):
    with server.client() as client:
        assert all(client.connection.ping().wait(5) for _ in range(10))
        with contextlib.suppress(Exception):
            for _ in range(100):
                client.connection.ping()
        _, code, reason = client.hear_all()
        assert (code, reason) == (1008, "too_fast: more than 10 pings a second")


def test_a_message_with_too_many_fragments_is_refused(server, impatient):
    raw = raw_client(server.port)
    send_raw(raw, 1, b'{"type": "start"}')
    raw.settimeout(10)
    with contextlib.suppress(OSError):
        raw.sendall(b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 5000)
    assert "a message has more than 4096 fragments" in everything_from(raw)
    raw.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_limits_hold_under_tls(model, processor, frames, tmp_path, patient):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    make += f" -addext subjectAltName=IP:127.0.0.1 -out {certificate} -keyout {key}"
    subprocess.run(make.split(), check=True, capture_output=True)
    trusts = ssl.create_default_context(cafile=certificate)
    # TLS 1.3 sends its tickets after the handshake: the client's thread reads them while the other one writes its
    # request, which Python's ssl does not allow and sometimes loses.
    trusts.maximum_version = ssl.TLSVersion.TLSv1_2
    files = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    with serving(model, processor, config=files, max_connections_per_address=2, start_timeout_s=1.0) as server:
        url = server.url.replace("ws:", "wss:")
        with Client(url, ssl=trusts) as first, Client(url, ssl=trusts):
            with pytest.raises(InvalidStatus, match="503"):
                Client(url, False, ssl=trusts)
            for n in range(6):
                first.show(n / 2, frames[n])
            assert first.hear()["type"] == "segment"
        with trusts.wrap_socket(opened(server), server_hostname="127.0.0.1") as silent:
            assert everything_from(silent) == ""


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (("::ffff:192.0.2.7", 5, 0, 0), "192.0.2.7"),
        ("", ""),
        (None, ""),
    ],
)
def test_which_client_addresses_count_as_one(peer, network):
    assert network_of(peer) == network
