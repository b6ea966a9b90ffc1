"""Fetching: the options for yt-dlp, and a real run of it against a server on this machine."""

import functools
import http.server
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from media import write_video

from livecc_hf.cli.main import main
from livecc_hf.production.inputs.fetch import FetchOptions, fetch, parse_rate, read_urls, ytdlp_options
from livecc_hf.production.inputs.videos import open_input

yt_dlp = pytest.importorskip("yt_dlp")


def test_options_are_polite_and_resume(tmp_path):
    found = ytdlp_options(tmp_path, FetchOptions(languages=("en", "de"), rate="500K", sleep_s=6, retries=4))
    assert found["ratelimit"] == 500 * 1024
    assert (found["sleep_interval"], found["max_sleep_interval"]) == (6, 18)
    assert found["retries"] == found["fragment_retries"] == 4
    assert found["download_archive"] == str(tmp_path / "archive.txt")
    assert found["subtitleslangs"] == ["en", "en-orig", "de", "de-orig"]
    tags = ytdlp_options(tmp_path, FetchOptions(languages=("eng", "pt-BR", "en")))["subtitleslangs"]
    assert tags == ["eng", "eng-orig", "en", "en-orig", "pt-BR", "pt-BR-orig"]
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
        ({"rate": "fast"}, "rate is 'fast': expected bytes per second such as 500K"),
        ({"sleep_s": -1}, "sleep_s is -1"),
        ({"retries": -1}, "retries is -1"),
        ({"languages": ()}, "languages is empty"),
        ({"languages": ("en de",)}, "languages has 'en de': expected codes separated by commas, such as en,de"),
        ({"languages": ("en", "(de")}, r"languages has '\(de': expected codes"),
        ({"max_height_px": 0}, "max_height_px is 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FetchOptions(**options)


def test_rates():
    assert [parse_rate(text) for text in ("0", "100", "1.5M", "2g")] == [None, 100, 1572864, 2 * 1024**3]
    assert parse_rate("0.0") is None
    assert parse_rate("0.3") == parse_rate("0.0001K") == 1  # the slowest, not without a limit


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "videos").touch()
    with pytest.raises(ValueError, match=r"videos cannot be made a folder \(it is a file\): choose another place"):
        fetch(["https://a.example/1"], tmp_path / "videos")


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "urls.txt").write_text("# für später\nhttps://a.example/1\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"urls\.txt is not UTF-8 .*: expected a text file with one URL per line"):
        read_urls(tmp_path / "urls.txt")
    (tmp_path / "urls.txt").write_text("https://a.example/1\n", encoding="utf-8-sig")  # as Windows saves it
    assert read_urls(tmp_path / "urls.txt") == ["https://a.example/1"]


def test_urls_are_read_and_wrong_lines_named(tmp_path):
    file = tmp_path / "urls.txt"
    file.write_text("# mine\nhttps://a.example/1\n\n  https://a.example/2 \nhttps://a.example/1\n")
    assert read_urls(file) == ["https://a.example/1", "https://a.example/2"]
    file.write_text("https://a.example/1\nnot an address\n")
    with pytest.raises(ValueError, match="line 2 of .* is 'not an address'"):
        read_urls(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match="holds no URL"):
        read_urls(file)
    with pytest.raises(FileNotFoundError, match="expected a text file"):
        read_urls(tmp_path / "none")


PAGE = """<html><head><title>A match</title></head><body><video>
<source src="/match.mp4" type="video/mp4">
<track src="/match.vtt" kind="subtitles" srclang="en"></video></body></html>"""
CAPTIONS = "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nHe shoots and scores.\n"


class Site:
    """A site with a video, a page that plays it with captions, and faults on demand.

    Attributes:
        url: where it is.
        faults: by path, what the next requests are answered with.
        asked: the paths, in the order they were asked for.
    """

    def __init__(self, url: str):
        self.url, self.faults, self.asked = url, {}, []


@pytest.fixture
def site(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = tmp_path / "served"
    served.mkdir()
    write_video(served / "match.mp4")
    (served / "page.html").write_text(PAGE)
    (served / "match.vtt").write_text(CAPTIONS)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            found.asked.append(self.path)
            faults = found.faults.get(self.path)
            if faults:
                self.send_error(faults.pop(0))
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        found = Site(f"http://127.0.0.1:{httpd.server_address[1]}")
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield found
        httpd.shutdown()


def test_videos_are_fetched_once_and_failures_named(tmp_path, site):
    options = FetchOptions(sleep_s=0, retries=0)
    urls = [f"{site.url}/none.mp4", f"{site.url}/match.mp4"]
    first = fetch(urls, tmp_path / "videos", options)
    assert (first.done, first.known) == (1, 0)
    [(url, reason)] = first.failed
    assert url == urls[0]
    assert "404" in reason
    again = fetch(urls, tmp_path / "videos", options)
    assert (again.done, again.known, len(again.failed)) == (0, 1, 1)

    source = open_input(tmp_path / "videos")
    rows, dropped = source.read(next(source.units()))
    assert len(dropped) == 0
    [row] = rows.to_pylist()
    assert row["video"].endswith("match.mp4")
    assert row["title"] == "match"


@pytest.mark.parametrize("video", [True, False], ids=["video", "captions only"])
@pytest.mark.parametrize("status", [404, 429, 503])
def test_captions_that_fail_are_a_failure_and_tried_again(tmp_path, site, status, video):
    options = FetchOptions(sleep_s=0, retries=0, video=video)
    site.faults["/match.vtt"] = [status] * 2
    url, out, lines = f"{site.url}/page.html", tmp_path / "videos", []
    for _ in range(2):
        result = fetch([url], out, options, lines.append)
        assert (result.done, result.known) == (0, 0)
        [(failed, reason)] = result.failed
        assert failed == url and str(status) in reason and "could not be fetched: en" in reason
        assert not list(out.glob("*.vtt"))
    assert any("failed: " in line and str(status) in line for line in lines)
    again = fetch([url], out, options)
    assert (again.done, again.known, again.failed) == (1, 0, [])
    [captions] = out.glob("*.en.vtt")
    assert "He shoots and scores." in captions.read_text()
    assert site.asked.count("/match.vtt") == 3
    assert len(list(out.glob("*.mp4"))) == video
    site.asked.clear()
    last = fetch([url], out, options)
    assert (last.done, last.known, last.failed) == (0, 1, []) and "/match.vtt" not in site.asked
    rows, _ = (source := open_input(out)).read(next(source.units()))
    assert rows["captions"].to_pylist() == [str(captions)]


def test_progress_says_what_is_going_on(tmp_path, site):
    lines = []
    fetch(
        [f"{site.url}/page.html", f"{site.url}/match.mp4"], tmp_path / "videos", FetchOptions(sleep_s=0), lines.append
    )
    assert lines[0] == f"1 of 2: {site.url}/page.html" and f"2 of 2: {site.url}/match.mp4" in lines
    assert any(".en.vtt: 0.0 MB" in line for line in lines) and sum(".mp4: 0." in line for line in lines) == 2
    assert lines[-1] == "  1 fetched, 0 fetched earlier"


def test_a_height_without_videos_is_refused(tmp_path, capsys):
    (tmp_path / "urls.txt").write_text("https://x.example/1\n")
    words = ["data", "fetch", str(tmp_path / "urls.txt"), str(tmp_path / "out"), "--no-video", "--max-height", "480"]
    assert main(words) == 2
    assert "--max-height 480: not with --no-video, which does not use it; leave it out" in capsys.readouterr().err
