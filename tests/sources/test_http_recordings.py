"""Recordings over HTTP, from servers with and without ranges."""

import contextlib
import functools
import http.server
import io
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from media import write_video
from senders import LiveServer

from livecc_hf.cli.main import main
from livecc_hf.sources import SourceOpenError, open_source

NOISE = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
# Large enough not to fit into FFmpeg's buffers.
LONG = {"n_frames": 400, "paint": lambda n: np.roll(NOISE, n, axis=0), "codec_options": {"g": "20", "crf": "10"}}


class FileServer(http.server.ThreadingHTTPServer):
    """Serves a folder, with HTTP ranges or, like Python's own server, without."""

    daemon_threads = True

    def __init__(self, folder, has_ranges, password=None):
        server = self
        self.firsts = []  # first bytes of the requested ranges

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                if password is not None and self.headers["Authorization"] != password:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="videos"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                super().do_GET()

            def send_head(self):
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if not (has_ranges and asked):
                    return super().send_head()
                data = Path(self.translate_path(self.path)).read_bytes()
                size = len(data)
                first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
                server.firsts.append(first)
                self.send_response(206)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
                self.send_header("Content-Length", str(last - first + 1))
                self.end_headers()
                return io.BytesIO(data[first : last + 1])

            def copyfile(self, source, outputfile):
                with contextlib.suppress(OSError):  # the client closes the connection when it has enough
                    super().copyfile(source, outputfile)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name, login=""):
        return f"http://{login}127.0.0.1:{self.server_address[1]}/{name}"


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(has_ranges, **options):
        servers.append(FileServer(str(tmp_path), has_ranges, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def read(name, **options):
    chunks = list(open_source(str(name), **options))
    return [t for chunk in chunks for t in chunk.timestamps_s], torch.cat([chunk.frames for chunk in chunks])


def assert_same(got, expected):
    assert got[0] == pytest.approx(expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("front.mp4", {"muxer_options": {"movflags": "+faststart"}}),
        ("end.mp4", {}),
        ("a.mkv", {}),
        ("late.ts", {"times_s": [50 + n / 10 for n in range(400)]}),
    ],
)
def test_a_part_is_the_same_as_of_the_file(name, options, has_ranges, serve, tmp_path):
    if name == "end.mp4" and not has_ranges:
        pytest.skip("cannot be read at all, see below")
    video, server = write_video(tmp_path / name, **LONG, **options), serve(has_ranges)
    for part in ({"start_s": 30}, {"start_s": 31.3, "end_s": 33}, {"start_s": 3, "end_s": 5.5}, {"end_s": 2.5}):
        server.firsts.clear()
        assert_same(read(server.url(name), live=False, **part), read(video, **part))
        # With ranges, the part before a distant start is not read.
        is_near = [0.5 < first / video.stat().st_size < 0.9 for first in server.firsts]
        if name != "late.ts":  # FFmpeg seeks its duration at the end, step by step
            assert any(is_near) == (has_ranges and part.get("start_s", 0) > 10)


def test_a_start_past_the_end_is_an_error(serve, tmp_path):
    write_video(tmp_path / "a.mkv", n_frames=30)
    for start_s in (4, 40):
        with pytest.raises(SourceOpenError, match=rf"a\.mkv: the start, {start_s} s, lies past its end"):
            read(serve(True).url("a.mkv"), start_s=start_s)


def test_commentary_counts_from_the_start_of_the_recording(serve, tmp_path, published_checkpoint, capsys):
    write_video(tmp_path / "a.mkv", n_frames=200, size_px=(160, 120))
    model = ["--model", str(published_checkpoint), "--position-scheme", "mrope", "--silence-threshold", "1"]
    url = serve(True).url("a.mkv")
    assert main(["commentate", url, "--start", "12", "--end", "17", "--format", "jsonl", *model]) == 0
    turns = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(turn["start_s"], turn["end_s"]) for turn in turns] == [(12, 15), (15, 16), (16, 17)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_an_index_at_the_end_that_cannot_be_fetched_is_an_error(name, serve, tmp_path):
    video = write_video(tmp_path / name, **LONG)
    assert video.stat().st_size > 200_000
    message = r"an MP4 with its index at the end, from a server that sends whole files only \(no HTTP ranges\)"
    with pytest.raises(SourceOpenError, match=message):
        read(serve(False).url(name))
    server = serve(False, password="Basic bWU6Z2UlaGVpbQ==")
    with pytest.raises(SourceOpenError, match=message) as error:
        read(server.url(name, "me:ge%25heim@"))
    assert "heim" not in str(error.value)
    assert len(read(serve(True).url(name))[0]) == 80


def test_other_failures_do_not_mention_an_index(serve, tmp_path):
    video = write_video(tmp_path / "a.mp4", **LONG, muxer_options={"movflags": "+faststart"})
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(Exception, match="broke|broken") as error:
        read(serve(False).url("a.mp4"))
    assert "index" not in str(error.value)


def test_an_address_that_cannot_be_opened_is_an_error_before_the_model_is_loaded(capsys):
    server = LiveServer()
    server.refuse = 404
    try:
        assert main(["commentate", server.url("none.mp4")]) == 2
    finally:
        server.stop()
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "none.mp4: 404, not found" in shown.err
