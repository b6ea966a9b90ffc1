"""Parsing of source names; passwords in them stay hidden."""

import os

import pytest

from livecc_hf.sources import open_source, parse_spec, redact


@pytest.mark.parametrize(
    ("text", "kind", "is_live", "url"),
    [
        ("-", "stdin", True, "-"),
        ("rtsp://cam.local/stream", "rtsp", True, None),
        ("RTSPS://cam.local:322/stream", "rtsp", True, None),
        ("rtmp://host/app/key", "rtmp", True, None),
        ("https://host/live/index.m3u8?x=1", "hls", True, None),
        ("http://host:8080/stream.ts", "http", True, None),
        ("http://host/stream", "http", True, None),
        ("http://host/match.MP4?sig=1", "http", False, None),
        ("tcp://127.0.0.1:99", "stream", True, None),
        ("lavfi:testsrc", "pattern", True, "testsrc"),
        pytest.param("camera:2", "camera", True, "/dev/video2", marks=pytest.mark.skipif("sys.platform != 'linux'")),
        pytest.param("/dev/video0", "camera", True, None, marks=pytest.mark.skipif("sys.platform != 'linux'")),
    ],
)
def test_kinds(text, kind, is_live, url):
    spec = parse_spec(text)
    assert (spec.kind, spec.is_live, spec.url) == (kind, is_live, url or text)


def test_files_and_pipes(tmp_path):
    video, pipe = tmp_path / "a.mp4", tmp_path / "pipe"
    video.write_bytes(b"x")
    os.mkfifo(pipe)
    assert (parse_spec(str(video)).kind, parse_spec(str(video)).is_live) == ("file", False)
    assert (parse_spec(str(video), live=True).kind, parse_spec(str(video), live=True).is_live) == ("stream", True)
    assert parse_spec(str(pipe)).is_live
    assert not parse_spec(str(pipe), live=False).is_live
    description = tmp_path / "stream.sdp"
    description.write_text("v=0")
    spec = parse_spec(str(description))
    assert (spec.kind, spec.is_live, spec.av_format) == ("stream", True, "sdp")


def test_certificates_are_verified_by_default():
    for scheme in ("https", "rtsps", "rtmps"):
        assert parse_spec(f"{scheme}://h/s").av_options["tls_verify"] == "1"
        assert "tls_verify" not in parse_spec(f"{scheme}://h/s", verify_tls=False).av_options
    assert "tls_verify" not in parse_spec("rtsp://h/s").av_options


def test_live_overrides_the_name():
    assert parse_spec("http://host/a.mp4", live=True).is_live
    assert not parse_spec("http://host/a.ts", live=False).is_live
    assert not parse_spec("-", live=False).is_live


def test_rtsp_prefers_tcp_by_default():
    assert parse_spec("rtsp://h/s").av_options["rtsp_flags"] == "prefer_tcp"
    assert parse_spec("rtsp://h/s", rtsp_transport="udp").av_options["rtsp_transport"] == "udp"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("ftp://u:pw@host/x", {}, r"ftp://\*\*\*@host/x: unknown scheme"),
        ("rtsp://", {}, "has no host"),
        ("rtsp://host:port/x", {}, "cannot parse this URL"),
        ("camera:x", {}, "expected a camera's number"),
        ("camera:0", {"live": False}, "is a camera"),
        ("rtsp://h/s", {"rtsp_transport": "quic"}, "'quic'"),
    ],
)
def test_refusals(text, options, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_spec(text, **options)
    assert "pw" not in str(error.value)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no such file: rtsp:\*\*\*@host/a"):
        parse_spec("rtsp:/user:secret@host/a")  # slashes mistyped
    with pytest.raises(FileNotFoundError, match="no such file: none.mp4"):
        parse_spec("none.mp4")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://host/a", "rtsp://host/a"),
        ("rtsp://user:secret@host:554/a", "rtsp://***@host:554/a"),
        ("rtsp://secret@host", "rtsp://***@host"),
        ("rtsp://user:sec@ret@host/a", "rtsp://***@host/a"),
        ("rtsp://user:sec/ret@host/a", "rtsp://***@host/a"),
        ("rtsp://user:sec#ret@host/a", "rtsp://***@host/a"),
        ("https://host/a?token=secret&b=1", "https://host/a?***"),
        ("https://host:80/@name/live", "https://host:80/@name/live"),
        ("video@home.mp4", "video@home.mp4"),
        ("udp://@:1234", "udp://@:1234"),
        ("udp://@239.0.0.1:1234?localaddr=10.0.0.1", "udp://@239.0.0.1:1234?***"),
        ("rtsp:/user:secret@host/a", "rtsp:***@host/a"),
        ("rtsp:user:secret@host/a", "rtsp:***@host/a"),
    ],
)
def test_redact(url, shown):
    assert redact(url) == shown
    if "://" in url and "." not in url.split("://")[0]:
        assert "secret" not in repr(parse_spec(url)) if "#" not in url and "sec/" not in url else True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stall_s": 0}, "stall_s=0"),
        ({"max_reconnects": -1}, "max_reconnects=-1"),
        ({"open_timeout_s": float("inf")}, "open_timeout_s=inf"),
        ({"stall_s": True}, "stall_s=True"),
        ({"max_reconnects": True}, "max_reconnects=True"),
        ({"max_hold_s": -1}, "max_hold_s=-1: expected a number of seconds above 0"),
        ({"end_s": float("nan"), "live": False}, "end_s=nan: expected a finite number"),
        ({"start_s": 1}, "a live source has no start and end"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        open_source("rtsp://host/x", **options)


def test_a_part_has_an_order():
    with pytest.raises(ValueError, match="end_s=3 is not after start_s=4"):
        open_source("http://host/x.mp4", start_s=4, end_s=3)


def test_the_former_name_of_options_still_works():
    import livecc_hf.sources

    assert livecc_hf.sources.StreamOptions is livecc_hf.sources.ReconnectOptions
