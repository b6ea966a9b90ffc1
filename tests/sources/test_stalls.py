"""After pauses and interruptions, the stream's clock follows the sender's, whatever the container delays."""

import threading
from itertools import pairwise

import pytest
from media import number_of
from rtsp_server import RtspServer
from senders import FPS, LiveServer
from virtual_sender import MUXERS, Sender, VirtualPipe, VirtualTime

from livecc_hf.modeling.video_file import import_av
from livecc_hf.sources import connection, open_source, reader
from livecc_hf.sources.errors import SourceLostError, SourceOpenError
from livecc_hf.sources.reader import ReconnectOptions, StreamReader
from livecc_hf.sources.spec import parse_spec

# Largest error of a label, in seconds.
CLOSE_S = 0.6


@pytest.fixture
def clock(monkeypatch):
    clock = VirtualTime()
    for module in (connection, reader):
        monkeypatch.setattr(module, "time", clock)
    return clock


def errors_s(chunks):
    """Return the error of each frame's label against the sender's time, without repeated frames."""
    shown = [(t, number_of(f) / FPS) for chunk in chunks for t, f in zip(chunk.timestamps_s, chunk.frames, strict=True)]
    first_s = shown[0][1]
    fresh = [shown[0], *(after for before, after in pairwise(shown) if before[1] != after[1])]
    return [round(label_s - (number_s - first_s), 3) for label_s, number_s in fresh]


def piped(sender, clock, monkeypatch, stall_s=60.0):
    pipe = VirtualPipe(clock, sender.data_from(clock.now_s), stall_s)
    monkeypatch.setattr(connection, "_open_pipe", lambda *_: pipe)
    stream = StreamReader(parse_spec("-"), ReconnectOptions(stall_s=stall_s))
    return list(stream), stream


@pytest.mark.parametrize("muxer", MUXERS)
@pytest.mark.parametrize(
    ("stall_s", "loses"),
    [
        (0, True),
        (5, True),
        (12, True),
        (7, False),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((3, True), (7, True), (30, True), (30, False))),
    ],
)
def test_a_pause(clock, monkeypatch, muxer, loses, stall_s):
    sender = Sender(clock, muxer, (6.0, 6.0 + stall_s), loses, end_s=12.0 + stall_s)
    chunks, stream = piped(sender, clock, monkeypatch)
    assert max(map(abs, errors_s(chunks))) < CLOSE_S
    assert chunks[-1].timestamps_s[-1] > 10 + stall_s
    assert stream.sampler.clock.n_jumps == 0


def reconnected(sender, clock, monkeypatch, joins_s, cuts_s):
    """Simulate connections that begin and break at the given times."""
    attempts = iter(zip(joins_s, cuts_s, strict=True))

    def connect(spec, *_):
        joined_s, cut_s = next(attempts, (None, None))
        if joined_s is None:
            raise SourceOpenError("over")
        clock.now_s = max(clock.now_s, sender.began_s + joined_s)
        pipe = VirtualPipe(clock, sender.data_from(clock.now_s), 60.0, sender.began_s + cut_s)
        return import_av().open(pipe, options=spec.av_options)

    monkeypatch.setattr(connection, "_open", connect)
    options = ReconnectOptions(stall_s=60, first_backoff_s=0.001, max_reconnects=len(joins_s))
    stream, chunks = StreamReader(parse_spec("tcp://127.0.0.1:1"), options), []
    with pytest.raises(SourceLostError, match="over"):  # no further connection is accepted
        for chunk in stream:
            chunks.append(chunk)
    return chunks


@pytest.mark.parametrize("muxer", ["mpegts", "flv", "matroska, live"])
@pytest.mark.parametrize("restarts", [False, True], ids=["same clock", "new clock"])
@pytest.mark.parametrize(("away_s", "key_frames_s"), [(1, 4), (8, 0.5), pytest.param(30, 4, marks=pytest.mark.slow)])
def test_a_cut(clock, monkeypatch, muxer, restarts, key_frames_s, away_s):
    sender = Sender(clock, muxer, restarts=restarts, key_frames_s=key_frames_s, end_s=45.0)
    joins_s, cuts_s = (2.3, 7.0 + away_s), (7.0, 44.0)
    chunks = reconnected(sender, clock, monkeypatch, joins_s, cuts_s)
    assert max(map(abs, errors_s(chunks))) < CLOSE_S
    assert chunks[-1].timestamps_s[-1] > 10 + away_s


def watched(server, url, paused_s, **options):
    """Pause a real server after two seconds of video, and read four more."""
    chunks = []
    with open_source(url, first_backoff_s=0.1, max_backoff_s=0.3, max_reconnects=60, **options) as source:
        for chunk in source:
            chunks.append(chunk)
            if len(chunks) == 2:
                server.paused.set()
                threading.Timer(paused_s, server.paused.clear).start()
            if len(chunks) == 6:
                break
    assert chunks[-1].timestamps_s[0] > 4 + paused_s
    return chunks, source.stats.n_reconnects


@pytest.mark.slow
@pytest.mark.parametrize("stall_s", [6.5, 14])
@pytest.mark.parametrize("limit_s", [30, 2])
def test_a_real_server_of_http(stall_s, limit_s):
    server = LiveServer()
    try:
        chunks, n_reconnects = watched(server, server.url(), stall_s, stall_s=limit_s, open_timeout_s=30)
    finally:
        server.stop()
    assert (n_reconnects > 0) == (stall_s > limit_s)
    assert max(map(abs, errors_s(chunks))) < CLOSE_S


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("limit_s", [20, 2])
def test_a_real_server_of_rtsp(transport, limit_s):
    with RtspServer() as server:
        options = {"stall_s": limit_s, "open_timeout_s": 30, "rtsp_transport": transport}
        chunks, n_reconnects = watched(server, server.url(), 6.5, **options)
    assert (n_reconnects > 0) == (limit_s < 6.5)
    assert max(map(abs, errors_s(chunks))) < CLOSE_S
