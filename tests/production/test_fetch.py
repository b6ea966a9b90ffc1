"""Fetching: the options that make it polite, and a real run of yt-dlp against a server on this machine."""

import functools
import http.server
import threading

import pytest

from livecc_hf.production.fetch import FetchOptions, fetch, parse_rate, read_urls, ytdlp_options

yt_dlp = pytest.importorskip("yt_dlp")


def test_options_are_polite_and_resume(tmp_path):
    found = ytdlp_options(tmp_path, FetchOptions(languages=("en", "de"), rate="500K", sleep_s=6, retries=4))
    assert found["ratelimit"] == 500 * 1024
    assert (found["sleep_interval"], found["max_sleep_interval"]) == (6, 18)
    assert found["retries"] == found["fragment_retries"] == 4
    assert found["download_archive"] == str(tmp_path / "archive.txt")
    assert found["subtitleslangs"] == ["en", "en-orig", "de", "de-orig"]
    assert found["writeinfojson"] and found["writeautomaticsub"] and found["subtitlesformat"].startswith("json3/vtt")
    yt_dlp.YoutubeDL(found | {"download_archive": None}).close()  # yt-dlp takes them


def test_captions_only_keeps_an_archive_of_its_own(tmp_path):
    found = ytdlp_options(tmp_path, FetchOptions(video=False))
    assert found["skip_download"]
    assert found["download_archive"].endswith("archive-captions.txt")
    assert "ratelimit" not in ytdlp_options(tmp_path, FetchOptions(rate="0"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": "fast"}, "rate is 'fast'; expected bytes per second such as 500K"),
        ({"sleep_s": -1}, "sleep_s is -1"),
        ({"retries": -1}, "retries is -1"),
        ({"languages": ()}, "there are no languages"),
        ({"max_height_px": 0}, "max_height_px is 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FetchOptions(**options)


def test_rates():
    assert [parse_rate(text) for text in ("0", "100", "1.5M", "2g")] == [None, 100, 1572864, 2 * 1024**3]


def test_urls_are_read_and_wrong_lines_named(tmp_path):
    file = tmp_path / "urls.txt"
    file.write_text("# mine\nhttps://a.example/1\n\n  https://a.example/2 \nhttps://a.example/1\n")
    assert read_urls(file) == ["https://a.example/1", "https://a.example/2"]
    file.write_text("https://a.example/1\nnot an address\n")
    with pytest.raises(ValueError, match="line 2 of .* is 'not an address'"):
        read_urls(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="holds no address"):
        read_urls(file)
    with pytest.raises(FileNotFoundError, match="expected a text file"):
        read_urls(tmp_path / "none")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from media import write_video

    (tmp_path / "served").mkdir()
    write_video(tmp_path / "served" / "match.mp4")
    handler = functools.partial(_Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_videos_are_fetched_once_and_failures_named(tmp_path, server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    options = FetchOptions(sleep_s=0, retries=0)
    urls = [f"{server}/none.mp4", f"{server}/match.mp4"]
    first = fetch(urls, tmp_path / "videos", options)
    assert (first.done, first.known) == (1, 0)
    [(url, reason)] = first.failed
    assert url == urls[0]
    assert "404" in reason
    again = fetch(urls, tmp_path / "videos", options)
    assert (again.done, again.known, len(again.failed)) == (0, 1, 1)

    from livecc_hf.production.inputs import open_input

    source = open_input(tmp_path / "videos")
    rows, dropped = source.read(next(source.units()))
    assert len(dropped) == 0
    [row] = rows.to_pylist()
    assert row["video"].endswith("match.mp4")
    assert row["title"] == "match"
