"""Live sources over loopback from a real HTTP server: pace, interruptions, stalls, ends and failures."""

import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from media import number_of
from senders import FPS, LiveServer, free_port

from livecc_hf.assets import demo_clip_path
from livecc_hf.sources import SourceLostError, SourceOpenError, open_source

QUICK = {"open_timeout_s": 6, "stall_s": 2, "first_backoff_s": 0.1, "max_backoff_s": 0.3, "max_reconnects": 20}


@pytest.fixture
def server():
    server = LiveServer()
    yield server
    server.stop()


def take(source, count):
    """Return the first chunks, and how late each came."""
    taken = []
    with source:
        for chunk in itertools.islice(iter(source), count):
            taken.append((chunk, source.note_lag(chunk)))
    return taken


def times(taken):
    return [t for chunk, _ in taken for t in chunk.timestamps_s]


def assert_whole_seconds(taken):
    for chunk, _ in taken:
        first, second = chunk.timestamps_s
        assert first == int(first)
        assert second == first + 0.5
    assert times(taken) == sorted(set(times(taken)))


def test_frames_come_as_they_are_sent(server):
    source = open_source(server.url(), **QUICK)
    began_s = time.monotonic()
    taken = []
    with source:
        for chunk in itertools.islice(iter(source), 3):
            age_s = server.now_s() - number_of(chunk.frames[-1]) / FPS
            taken.append((chunk, source.note_lag(chunk)))
    assert times(taken) == [n / 2 for n in range(6)]
    assert source.is_live
    assert source.stats.taken_frames == 6
    assert source.lag.max_s < 2.5
    assert age_s < 2.5  # of the last frame, by the sender's clock
    assert time.monotonic() - began_s < 7


@pytest.mark.slow
def test_a_slow_consumer_gets_the_newest(server):
    source = open_source(server.url(), max_hold_s=0.5, **QUICK)
    taken = []
    with source:
        for chunk in itertools.islice(iter(source), 3):
            taken.append((chunk, source.note_lag(chunk)))
            age_s = server.now_s() - number_of(chunk.frames[-1]) / FPS
            time.sleep(2.2 if len(taken) < 3 else 0)
    assert_whole_seconds(taken)
    assert source.stats.skipped_frames >= 4
    assert age_s < 2.5
    assert source.lag.max_s < 2.5


def test_a_server_killed_and_started_again(server):
    messages = []
    source = open_source(server.url(), on_message=messages.append, **QUICK)
    taken = []
    with source:
        for chunk in source:
            taken.append((chunk, source.note_lag(chunk)))
            if len(taken) == 1:
                server.stop()
                threading.Timer(0.8, server.start).start()
            if len(taken) == 4:
                break
    assert_whole_seconds(taken)
    assert source.stats.n_reconnects == 1
    assert 1 <= times(taken)[-1] - 3.5 <= 6  # the stream's clock continued
    # and so did its contents: frame numbers are the sender's time.
    numbers = [number_of(chunk.frames[-1]) / FPS for chunk, _ in taken]
    spans = numbers[-1] - numbers[0], times(taken)[-1] - times(taken)[1]
    assert spans[0] == pytest.approx(spans[1], abs=1.5)
    assert any("attempt 1 of 20" in message for message in messages)
    assert any("connection refused" in message for message in messages)
    assert messages[-1].endswith("connected again")


@pytest.mark.slow
def test_a_stall_is_detected_and_reconnected(server):
    messages = []
    source = open_source(server.url(), on_message=messages.append, **QUICK | {"stall_s": 1})
    taken = []
    with source:
        for chunk in source:
            taken.append((chunk, source.note_lag(chunk)))
            if len(taken) == 1:
                server.paused.set()
                threading.Timer(1.8, server.paused.clear).start()
            if len(taken) == 3:
                break
    assert_whole_seconds(taken)
    assert source.stats.n_reconnects == 1
    assert any("no data came for 1 s; attempt 1" in message for message in messages)


def test_a_sender_that_is_stopped_and_continues(tmp_path):
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("senders.py")), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        try:
            assert sender.stdout.readline() == b"ready\n"
            source = open_source(f"http://127.0.0.1:{port}/live.ts", **QUICK | {"stall_s": 1.0})
            taken = []
            with source:
                for chunk in source:
                    taken.append((chunk, source.note_lag(chunk)))
                    if len(taken) == 1:
                        sender.send_signal(signal.SIGSTOP)
                        threading.Timer(1.8, sender.send_signal, [signal.SIGCONT]).start()
                    if len(taken) == 3:
                        break
        finally:
            sender.kill()
    assert_whole_seconds(taken)
    assert source.stats.n_reconnects >= 1


def test_the_end_is_distinguished_from_a_failure(server):
    server.end_s = server.now_s() + 2.5
    source = open_source(server.url("end.ts"), **QUICK)
    taken = take(source, 10)  # the iteration ends: the server answers, but no longer has the stream
    assert times(taken)[:4] == [0, 0.5, 1, 1.5]
    assert source.stats.n_reconnects == 0


def test_a_server_that_does_not_come_back_is_a_failure(server):
    source = open_source(server.url(), **QUICK | {"max_reconnects": 3})
    taken = []
    with pytest.raises(SourceLostError, match=r"connection refused.*3 attempts to connect again failed"), source:
        for chunk in source:
            taken.append(chunk)
            server.stop()
    assert taken


def test_a_server_that_fails_after_the_end_is_a_failure(server):
    """A proxy whose encoder has crashed also closes the stream in order, and then answers 502."""
    server.end_s = server.now_s() + 1.5
    source = open_source(server.url("end.ts"), **QUICK | {"max_reconnects": 5})
    with pytest.raises(SourceLostError, match=r"the server failed \(HTTP 5xx\); 5 attempts"), source:
        for _ in source:
            server.refuse = 502


def test_a_refusal_after_a_cut_is_a_loss(server):
    source = open_source(server.url(login="me:geheim@"), **QUICK)
    with pytest.raises(SourceLostError, match="lost: 401, not authorised") as error, source:
        for _ in source:
            server.refuse = 401
            server.cut()
    assert "geheim" not in str(error.value)


def test_a_body_of_known_length_is_a_recording(server):
    chunks = list(open_source(server.url("file.ts"), **QUICK))
    assert [t for chunk in chunks for t in chunk.timestamps_s] == [0, 0.5, 1, 1.5]
    assert server.n_connections == 1


@pytest.mark.slow
def test_times_that_restart(server):
    source = open_source(server.url("back.ts"), **QUICK)
    taken = take(source, 4)
    assert_whole_seconds(taken)
    assert times(taken)[-1] in (3.5, 4.5)
    assert source.stats.n_time_jumps == 1


@pytest.mark.slow
def test_another_size_after_a_cut_is_resized(server):
    source = open_source(server.url(), **QUICK)
    taken = []
    with source:
        for chunk in source:
            taken.append((chunk, 0))
            if len(taken) == 1:
                server.size_px = (192, 128)
                server.cut()
            if len(taken) == 3:
                break
    assert {tuple(chunk.frames.shape) for chunk, _ in taken} == {(2, 3, 64, 96)}
    assert source.stats.n_size_changes == 1
    assert abs(number_of(taken[-1][0].frames[-1]) / FPS - server.now_s()) < 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("401", "401, not authorised: give the right name and password as http://NAME:PASSWORD@"),
        ("403", "403, forbidden"),
        ("404", "404, not found: check the path"),
        ("500", r"the server failed \(HTTP 5xx\)"),
        ("text", "or no video is sent"),
        ("tone.ts", r"has no video stream to watch \(it holds: audio\)"),
        ("silent", "no video came within 1 s|ended before any video"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_line(server, path, message):
    source = open_source(server.url(path, login="me:geheim@"), **QUICK | {"open_timeout_s": 1})
    with pytest.raises(SourceOpenError, match=message) as error, source:
        source.wait_ready()
    text = str(error.value)
    assert "geheim" not in text
    assert f"http://***@127.0.0.1:{server.port}/{path}" in text
    assert "\n" not in text


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtmp", "tcp"])
def test_nothing_listens(scheme):
    url = f"{scheme}://me:geheim@127.0.0.1:{free_port()}/a/b"
    source = open_source(url, **QUICK)
    with pytest.raises(SourceOpenError, match="connection refused: check that the server is running") as error, source:
        source.wait_ready()
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtmp"])
def test_a_host_without_a_name(scheme):
    url = f"{scheme}://me:geheim@no-such-host.invalid/a/b"
    with pytest.raises(SourceOpenError, match=r"unknown host no-such-host\.invalid") as error:
        list(open_source(url, **QUICK))
    assert "geheim" not in str(error.value)


@pytest.mark.skipif(sys.platform != "linux", reason="devices as on Linux")
def test_a_camera_under_another_name(tmp_path):
    """Like a name in /dev/v4l/by-id: a device node of a camera that is not plugged in."""
    path = tmp_path / "usb-camera"
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(81, 97))
        path.open("rb").close()
    except PermissionError:
        pytest.skip("devices cannot be made here")
    except OSError:
        pass
    with pytest.raises(SourceOpenError, match="usb-camera: no such camera: is it plugged in"):
        list(open_source(path))


@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/video97").exists(), reason="needs Linux without that camera")
def test_no_camera():
    with pytest.raises(SourceOpenError, match="camera:97: no such camera: is it plugged in"):
        list(open_source("camera:97"))


def test_a_test_pattern_stands_in_for_a_camera():
    """FFmpeg's virtual capture device, which generates frames in real time."""
    source = open_source("lavfi:testsrc=size=64x64:rate=10,realtime", **QUICK)
    taken = take(source, 3)
    assert times(taken) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert source.lag.max_s < 1
    with pytest.raises(SourceOpenError, match="cannot make this test pattern"):
        list(open_source("lavfi:no_such_thing"))


def test_a_consumer_may_leave_and_the_reader_ends(server):
    before = threading.active_count()
    source = open_source(server.url(), **QUICK)
    take(source, 1)
    deadline_s = time.monotonic() + 5
    while any(t.name == "livecc-feed" for t in threading.enumerate()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not any(thread.name == "livecc-feed" for thread in threading.enumerate())
    assert threading.active_count() <= before + 2  # the server's threads


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
@pytest.mark.parametrize("realtime", [False, True])
def test_a_consumer_may_leave_and_the_file_is_closed(realtime):
    def n_open():
        handles = os.listdir("/proc/self/fd")  # noqa: PTH208
        return sum(os.path.realpath(f"/proc/self/fd/{handle}") == os.fspath(clip) for handle in handles)

    clip = demo_clip_path().resolve()
    with open_source(clip, realtime=realtime) as source:
        for _ in source:
            assert n_open() == 1
            break
    assert n_open() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_thirty_reconnects_leave_nothing_behind(server):
    def used():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208

    options = QUICK | {"first_backoff_s": 0.01, "max_backoff_s": 0.01, "max_reconnects": 100}
    source = open_source(server.url("burst.ts"), **options)
    counts = []
    with source:
        for _ in source:
            if not counts or source.stats.n_reconnects > counts[-1][0]:
                counts.append((source.stats.n_reconnects, *used()))
            if source.stats.n_reconnects >= 30:
                break
    early = [count for count in counts if count[0] <= 10]
    late = [count for count in counts if count[0] >= 20]
    assert late
    # The server's side of a connection may still be closing.
    assert max(fds for _, fds, _ in late) <= max(fds for _, fds, _ in early) + 3
    assert max(tasks for *_, tasks in late) <= max(tasks for *_, tasks in early) + 3
