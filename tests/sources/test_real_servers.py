"""Common streaming programs, if installed: FFmpeg, nginx with the RTMP module, VLC, HLS from a folder."""

import functools
import http.server
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from senders import free_port

from livecc_hf.sources import SourceError, SourceLostError, open_source

RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
PATTERN = ["-re", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25"]
ENCODE = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p"]
QUICK = {"open_timeout_s": 8, "stall_s": 2, "first_backoff_s": 0.3, "max_backoff_s": 0.5, "max_reconnects": 40}

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="FFmpeg's program is not installed")
needs_nginx = pytest.mark.skipif(
    not (shutil.which("nginx") and RTMP_MODULE.exists()), reason="nginx with its RTMP module is not installed"
)
needs_vlc = pytest.mark.skipif(not shutil.which("cvlc"), reason="VLC is not installed")


@pytest.fixture
def launch():
    """A function that starts a program, which is terminated after the test."""
    started = []

    def start(command, **options):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **{"stdout": subprocess.DEVNULL} | options)
        started.append(process)
        return process

    start.started = started
    yield start
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ffmpeg(*arguments):
    return ["ffmpeg", "-v", "error", "-nostdin", *arguments]


def take(source, count, at=None):
    """Return the times of the first chunks; `at` maps a number of chunks to a function to call then."""
    taken = []
    with source:
        for chunk in source:
            source.note_lag(chunk)
            taken.append(chunk.timestamps_s)
            if at and len(taken) in at:
                at[len(taken)]()
            if len(taken) == count:
                break
    ends_early = len(taken[-1]) == 1  # the last chunk of an ended stream
    assert all(second == first + 0.5 for first, second in taken[: len(taken) - ends_early])
    assert all(times[0] == int(times[0]) for times in taken)
    assert taken == sorted(taken)
    return taken


def wait_for(condition):
    deadline_s = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def open_when_there(url, **options):
    """Open a source whose sender was just started."""
    deadline_s = time.monotonic() + 15
    while True:
        source = open_source(url, **QUICK | options)
        try:
            source.wait_ready()
            return source
        except SourceError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.3)


@needs_ffmpeg
@pytest.mark.parametrize("muxer", ["mpegts", pytest.param("matroska", marks=pytest.mark.slow)])
def test_a_pipe_from_ffmpeg(launch, muxer):
    sender = launch(ffmpeg(*PATTERN, "-t", "3", *ENCODE, "-f", muxer, "-"), stdout=subprocess.PIPE)
    source = open_source("-", stdin_fd=sender.stdout.fileno(), **QUICK | {"stall_s": 20, "open_timeout_s": 20})
    assert take(source, 9) == [[0, 0.5], [1, 1.5], [2, 2.5]]


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize(
    ("muxer", "options"), [("mjpeg", ["-q:v", "2"]), ("mp4", [*ENCODE, "-movflags", "frag_keyframe+empty_moov"])]
)
def test_a_pipe_of_other_forms(launch, muxer, options):
    sender = launch(ffmpeg(*PATTERN, "-t", "5", *options, "-f", muxer, "-"), stdout=subprocess.PIPE)
    source = open_source("-", stdin_fd=sender.stdout.fileno(), **QUICK | {"stall_s": 6})
    taken = take(source, 9)
    assert len(taken) >= 3
    assert source.lag.max_s < 3


@pytest.mark.slow  # on a busy machine there are further stalls
@needs_ffmpeg
@pytest.mark.parametrize("muxer", ["mpegts", "rtp_mpegts", "rtp"])
def test_udp_and_rtp_from_ffmpeg_with_a_stall(launch, tmp_path, muxer):
    """UDP has no connection: any sender to the port is read, and only silence shows a failure."""
    address = f"{'udp' if muxer == 'mpegts' else 'rtp'}://127.0.0.1:{free_port() // 2 * 2}"
    url, options = address, []
    if muxer == "rtp":
        url = str(tmp_path / "stream.sdp")
        options = ["-sdp_file", url]
    launch(ffmpeg(*PATTERN, *ENCODE, *options, "-f", muxer, f"{address}?pkt_size=1316"))
    wait_for(lambda: muxer != "rtp" or Path(url).exists())
    messages = []
    source = open_when_there(url, on_message=messages.append, stall_s=1)
    sender = launch.started[-1]

    def stall():
        sender.send_signal(signal.SIGSTOP)
        threading.Timer(1.5, sender.send_signal, [signal.SIGCONT]).start()

    taken = take(source, 4, at={1: stall})
    assert any("no data came for 1 s; attempt 1" in message for message in messages)
    assert source.stats.n_reconnects == 1
    assert taken[-1][0] >= 3
    sender.kill()


@needs_ffmpeg
def test_rtp_of_one_codec_needs_its_description(launch):
    address = f"rtp://127.0.0.1:{free_port() // 2 * 2}"
    launch(ffmpeg(*PATTERN, *ENCODE, "-f", "rtp", address))
    with pytest.raises(SourceError, match=r"needs its description: give the \.sdp file"):
        take(open_source(address, **QUICK), 1)


@pytest.mark.slow
@needs_ffmpeg
def test_http_from_ffmpeg_stopped_and_started_again(launch):
    url = f"http://127.0.0.1:{free_port()}/live.ts"
    command = ffmpeg(*PATTERN, *ENCODE, "-f", "mpegts", "-listen", "1", url)
    first = launch(command)
    source = open_when_there(url)
    taken = take(source, 6, at={2: lambda: (first.kill(), first.wait(), launch(command))})
    assert source.stats.n_reconnects >= 1
    assert taken[-1][0] > 5


def write_rtmp_config(folder, options=""):
    """Return an nginx configuration and the URL to publish to."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"load_module {RTMP_MODULE};\ndaemon off; master_process off; pid {folder}/pid; error_log {folder}/log;\n"
        f"events {{}}\nrtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; {options} }} }} }}\n"
    )
    return config, f"rtmp://127.0.0.1:{port}/live/key"


@pytest.mark.slow
@needs_ffmpeg
@needs_nginx
@pytest.mark.parametrize("options", ["", "idle_streams off;", "play_restart on;"])
def test_rtmp_from_nginx_whose_publisher_stops(launch, tmp_path, options):
    """With nginx's default settings this is a stall; a setting makes nginx signal the end."""
    config, url = write_rtmp_config(tmp_path, options)
    launch(["nginx", "-c", str(config)])
    time.sleep(0.5)
    sender = launch(ffmpeg(*PATTERN, *ENCODE, "-f", "flv", url))
    messages = []
    source = open_when_there(url, on_message=messages.append, stall_s=3, open_timeout_s=5)
    if options:
        take(source, 50, at={2: sender.terminate})  # ends: the server signals it, and no longer has the stream
        assert any("the sender ended the stream" in message for message in messages)
        assert any("is a stream being published there?" in message for message in messages)
    else:
        source = open_when_there(url, on_message=messages.append, stall_s=3, open_timeout_s=5, max_reconnects=1)
        with pytest.raises(SourceLostError, match=r"is a stream being published there\?; 1 attempts"):
            take(source, 50, at={2: sender.terminate})
        assert any("no data came for 3 s" in message for message in messages)


@pytest.mark.slow
@needs_ffmpeg
@needs_nginx
def test_rtmp_from_nginx_killed_and_started_again(launch, tmp_path):
    config, url = write_rtmp_config(tmp_path)

    def publish():
        server = launch(["nginx", "-c", str(config)])
        time.sleep(0.5)
        sender = launch(ffmpeg(*PATTERN, *ENCODE, "-f", "flv", url))
        return server, sender

    processes = publish()

    def cut():
        for process in processes:
            process.kill()
            process.wait()
        threading.Timer(1, publish).start()

    source = open_when_there(url)
    taken = take(source, 7, at={3: cut})
    assert source.stats.n_reconnects >= 1
    assert taken[-1][0] > 6
    assert source.lag.last_s < 3.5


@pytest.mark.slow
@needs_ffmpeg
@needs_vlc
@pytest.mark.parametrize("transport", ["auto", "udp"])
def test_rtsp_from_vlc(launch, tmp_path, transport):
    video = tmp_path / "a.mp4"
    subprocess.run(ffmpeg(*PATTERN[1:], "-t", "40", *ENCODE, str(video)), check=True)
    port = free_port()
    sout = f"#rtp{{sdp=rtsp://127.0.0.1:{port}/test}}"
    command = ["cvlc", "-I", "dummy", "--no-audio", "--loop", str(video), "--sout", sout]
    if Path("/").owner() == "root" and shutil.which("runuser"):  # VLC refuses to run as root
        tmp_path.chmod(0o755)
        for folder in tmp_path.parents:
            if folder == Path(tempfile.gettempdir()):
                break
            folder.chmod(0o755)
        video.chmod(0o644)
        command = ["runuser", "-u", "nobody", "--", *command]
    server = launch(command, start_new_session=True)
    try:
        source = open_when_there(f"rtsp://127.0.0.1:{port}/test", rtsp_transport=transport)
        taken = take(source, 3)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
    assert len(taken) == 3
    with pytest.raises(SourceError):
        list(open_source(f"rtsp://127.0.0.1:{port}/test", **QUICK))


@pytest.mark.slow
@needs_ffmpeg
def test_hls_from_a_folder_with_a_stall_and_its_end(launch, tmp_path):
    hls = ["-f", "hls", "-hls_time", "1", "-hls_list_size", "4", "-hls_flags", "delete_segments"]
    sender = launch(ffmpeg(*PATTERN, "-t", "12", *ENCODE, *hls, str(tmp_path / "live.m3u8")))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def stall():
            sender.send_signal(signal.SIGSTOP)
            threading.Timer(5, sender.send_signal, [signal.SIGCONT]).start()

        source = open_when_there(f"http://127.0.0.1:{server.server_port}/live.m3u8", stall_s=3)
        taken = take(source, 100, at={4: stall})  # ends with the sender
        server.shutdown()
    assert len(taken) >= 7
    assert source.stats.n_reconnects >= 1
