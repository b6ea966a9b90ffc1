"""HLS from a folder: only one of a playlist's qualities is fetched."""

import functools
import http.server
import threading

import pytest
from media import write_video

from livecc_hf.sources import open_source


@pytest.fixture
def server(tmp_path):
    """A server of `tmp_path`, with the requested paths."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = asked
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_one_quality_is_fetched(server, tmp_path):
    entries = ["#EXTM3U"]
    for name, size_px in (("small", (96, 64)), ("large", (192, 128))):
        options = {"hls_time": "1", "hls_list_size": "0", "hls_segment_filename": str(tmp_path / f"{name}%d.ts")}
        path = tmp_path / f"{name}.m3u8"
        write_video(path, n_frames=160, size_px=size_px, muxer="hls", muxer_options=options, codec_options={"g": "10"})
        entries += [f"#EXT-X-STREAM-INF:BANDWIDTH={size_px[0] * 1000}", path.name]
    (tmp_path / "index.m3u8").write_text("\n".join(entries) + "\n")
    chunks = list(open_source(f"http://127.0.0.1:{server.server_port}/index.m3u8", live=False))
    assert len(chunks) == 16
    fetched = {
        name: sum(path.startswith(f"/{name}") and path.endswith(".ts") for path in server.asked)
        for name in ("small", "large")
    }
    assert sorted(fetched.values())[0] <= 4  # the other quality is only read while opening
    assert max(fetched.values()) >= 16
