"""RTSP over loopback: both transports, an interruption, a stall, the end, and passwords."""

import threading

import pytest
from media import number_of
from rtsp_server import RtspServer
from senders import FPS

from livecc_hf.sources import SourceOpenError, open_source

QUICK = {"open_timeout_s": 6, "stall_s": 1.5, "first_backoff_s": 0.1, "max_backoff_s": 0.3, "max_reconnects": 10}


@pytest.fixture
def messages():
    return []


def take(source, count, after_first=None):
    """Return the first chunks; call `after_first` after the first one."""
    taken = []
    with source:
        for chunk in source:
            taken.append(chunk)
            if len(taken) == 1 and after_first is not None:
                after_first()
            if len(taken) == count:
                break
    assert all(chunk.timestamps_s == [(first := chunk.timestamps_s[0]), first + 0.5] for chunk in taken[:count])
    return taken


@pytest.mark.parametrize(
    ("offered", "asked", "used"),
    [(("tcp", "udp"), "auto", "tcp"), (("udp",), "auto", "udp"), (("tcp", "udp"), "udp", "udp")],
)
def test_the_transport_is_tcp_where_offered_unless_asked_otherwise(offered, asked, used):
    with RtspServer(offered, login="me:geheim") as server:
        source = open_source(server.url(login="me:geheim@"), rtsp_transport=asked, **QUICK)
        taken = take(source, 2)
        assert server.used == [used]
        assert server.now_s() - number_of(taken[-1].frames[-1]) / FPS < 2.5
    assert [chunk.timestamps_s for chunk in taken] == [[0, 0.5], [1, 1.5]]


def test_a_transport_that_is_not_offered():
    with RtspServer(("udp",)) as server, pytest.raises(SourceOpenError, match="try another RTSP transport"):
        take(open_source(server.url(), rtsp_transport="tcp", **QUICK), 1)


@pytest.mark.parametrize(
    ("path", "login", "message"),
    [
        ("live", "me:falsch@", "401, not authorised: give the right name and password as rtsp://NAME:PASSWORD@"),
        ("live", "", "401, not authorised"),
        ("other", "me:geheim@", "404, not found"),
    ],
)
def test_refusals(path, login, message):
    with RtspServer(login="me:geheim") as server, pytest.raises(SourceOpenError, match=message) as error:
        take(open_source(server.url(path, login), **QUICK), 1)
    assert "falsch" not in str(error.value)
    assert "geheim" not in str(error.value)


def test_a_cut(messages):
    with RtspServer() as server:
        taken = take(open_source(server.url(), messages.append, **QUICK), 3, after_first=server.cut)
        spans = [number_of(chunk.frames[0]) / FPS - chunk.timestamps_s[0] for chunk in taken]
    assert any("attempt 1 of 10" in message for message in messages)
    assert messages[-1].endswith("connected again")
    assert max(spans) - min(spans) < 1.5  # the stream's clock followed the sender's


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_stall(messages, transport):
    with RtspServer() as server:

        def stall():
            server.paused.set()
            threading.Timer(2.0, server.paused.clear).start()

        source = open_source(server.url(), messages.append, rtsp_transport=transport, **QUICK)
        take(source, 3, after_first=stall)
    assert any("no data came for 1.5 s; attempt 1 of 10" in message for message in messages)
    assert source.stats.n_reconnects == 1


def test_the_end_is_distinguished_from_a_failure(messages):
    with RtspServer() as server:

        def end():
            server.is_on_air = False

        source = open_source(server.url(), messages.append, **QUICK)
        take(source, 10, after_first=end)  # the iteration ends: the server answers, but no longer has the stream
    assert any("404, not found" in message for message in messages)
    assert source.stats.n_reconnects == 0
