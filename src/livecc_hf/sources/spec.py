"""Parses the name of a source: a file, a camera, a URL or standard input; live or a recording."""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from livecc_hf.modeling.video_file import FILE_PREFIX, local_file
from livecc_hf.sources.diagnosis import TLS_SCHEMES, trusted_certificates

Kind = Literal["file", "camera", "stdin", "rtsp", "rtmp", "hls", "http", "stream", "pattern"]

RTSP_TRANSPORTS = ("auto", "tcp", "udp")
_SCHEMES: dict[str, Kind] = {
    **{"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "rtmp", "rtmps": "rtmp", "http": "http", "https": "http"},
    **{"tcp": "stream", "udp": "stream", "rtp": "stream", "srt": "stream"},
}
# URLs with these suffixes are recordings, unless the user says otherwise.
_RECORDING_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".ogv"})
_PLAYLIST_SUFFIXES = frozenset({".m3u8", ".m3u"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CAMERA = re.compile(r"camera:(\d+)")
_CAMERA_DEVICE = re.compile(r"/dev/video(\d+)")
_V4L_MAJOR = 81  # Linux's device number of cameras
# A URL with mistyped slashes after its scheme and a user name before the host.
_MISTYPED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/?(?!/)[^/]*@")
_HIDDEN = "***"
# Limits of FFmpeg's analysis of a stream's start, which delays its frames: microseconds, and frames to measure the
# frame rate (20 by default, but 3 are enough).
_SHORT_ANALYSIS = {"analyzeduration": "2000000", "fpsprobesize": "3"}
# Protocols that a description of RTP streams may use.
_SDP = {"protocol_whitelist": "file,udp,rtp"}


@dataclass(frozen=True)
class SourceSpec:
    """A source's name, parsed.

    Attributes:
        kind: the kind of source.
        is_live: whether it is live (outdated frames are skipped) or a recording (every frame is shown).
        url: the path or URL for PyAV; may contain a password, so it is not shown.
        name: the source's name without secrets, for messages.
        av_format: the FFmpeg input format, if it does not follow from the content.
        av_options: FFmpeg options of the protocol and the container.
        is_path: whether `url` is a path, in which a colon has no special meaning.
    """

    kind: Kind
    is_live: bool
    url: str = field(repr=False)
    name: str
    av_format: str | None = None
    av_options: dict[str, str] = field(default_factory=dict, repr=False)
    is_path: bool = False


def parse_spec(
    text: str, live: bool | None = None, rtsp_transport: str = "auto", verify_tls: bool = True
) -> SourceSpec:
    """Parse the name of a source.

    Args:
        text: a file, `/dev/video0`, `camera:0`, a URL (file, rtsp, rtsps, rtmp, rtmps, http, https, tcp, udp, rtp,
            srt), the `.sdp` file of RTP streams, `-` for standard input, or `lavfi:GRAPH` for one of FFmpeg's test
            patterns.
        live: `True`: read as live; `False`: read as a recording; `None`: decide by the name.
        rtsp_transport: how RTSP carries video: `tcp`, `udp`, or `auto` for TCP where the server offers it.
        verify_tls: whether servers of https, rtsps and rtmps must have a certificate that the system trusts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a source, or cannot be read as `live` asks.
    """
    if rtsp_transport not in RTSP_TRANSPORTS:
        raise ValueError(f"rtsp_transport={rtsp_transport!r}: expected one of {', '.join(RTSP_TRANSPORTS)}")
    if not text:
        raise ValueError("the video's name is empty: expected a file, a camera, a URL or - for standard input")
    if text == "-":
        return _pipe("-", "standard input", live)
    if text.startswith("lavfi:"):
        return SourceSpec("pattern", live is not False, text[len("lavfi:") :], text, "lavfi")
    if text.startswith(FILE_PREFIX):
        return _parse_path(local_file(text), live)
    match = _SCHEME.match(text)
    if match is not None and (match[1].lower() in _SCHEMES or not Path(text).exists()):
        return _parse_url(text, match[1].lower(), live, rtsp_transport, verify_tls)
    if (match := _CAMERA.fullmatch(text)) is not None:
        return _camera(int(match[1]), text, live)
    if text.startswith("camera:") and not Path(text).exists():
        raise ValueError(f"{text}: expected a camera's number, such as camera:0")
    if (match := _CAMERA_DEVICE.fullmatch(text)) is not None:
        return _camera(int(match[1]), text, live)
    return _parse_path(text, live)


def is_stream_name(text: str) -> bool:
    """Return whether a text names a camera, standard input, a test pattern or an address, and not a file."""
    if text.startswith(FILE_PREFIX) or os.path.lexists(text):
        return False
    return text == "-" or text.startswith(("camera:", "lavfi:")) or _SCHEME.match(text) is not None


def redact(url: str) -> str:
    """Return a URL without its secrets: user name, password, and everything after the question mark."""
    match = _SCHEME.match(url)
    if match is None:
        mistyped = _MISTYPED.match(url)
        return url if mistyped is None else f"{mistyped[1]}:{_HIDDEN}@{url[url.rindex('@') + 1 :]}"
    rest = url[match.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and "@" in rest and re.search(r":(?!\d*$)", authority):
        # A password may contain a slash: hiding too much is better than too little.
        authority = rest[: rest.rindex("@") + 1]
    if "@" in authority.removeprefix("@"):
        at = rest.rindex("@", 0, len(authority))
        rest = f"{_HIDDEN}@{rest[at + 1 :]}"
    path, mark, _ = rest.partition("?")
    return f"{match[0]}{path}{mark}{_HIDDEN if mark else ''}"


def _parse_url(text: str, scheme: str, live: bool | None, rtsp_transport: str, verify_tls: bool) -> SourceSpec:
    name = redact(text)
    if scheme not in _SCHEMES:
        raise ValueError(
            f"{name}: unknown scheme {scheme}://; expected one of {', '.join(sorted({'file', *_SCHEMES}))}"
        )
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  (raises if it is not a number)
    except ValueError:
        raise ValueError(f"{name}: cannot parse this URL; write special characters of a password as %XX") from None
    if not parts.netloc:
        raise ValueError(f"{name}: the URL has no host; expected a form such as {scheme}://host/path")
    kind, suffix = _SCHEMES[scheme], PurePosixPath(parts.path).suffix.lower()
    if kind == "http" and suffix in _PLAYLIST_SUFFIXES:
        kind = "hls"
    is_live = live if live is not None else not (kind == "http" and suffix in _RECORDING_SUFFIXES)
    options = dict(_SHORT_ANALYSIS) if is_live else {}
    if scheme in TLS_SCHEMES and verify_tls:
        trusted = trusted_certificates()
        options |= {"tls_verify": "1"} | ({"ca_file": trusted} if trusted else {})
    if kind == "rtsp":
        how = {"rtsp_flags": "prefer_tcp"} if rtsp_transport == "auto" else {"rtsp_transport": rtsp_transport}
        options |= how
    elif kind == "rtmp":
        options |= {"rtmp_live": "live" if is_live else "recorded"}
    elif scheme == "udp":
        options |= {"overrun_nonfatal": "1"}  # if decoding is slow, lose data rather than the stream
    elif kind == "hls" and is_live:
        options |= {"live_start_index": "-1"}  # the newest segment; FFmpeg's default is the third newest
    elif kind == "http" and not is_live:
        options |= {"reconnect": "1", "reconnect_on_network_error": "1", "reconnect_delay_max": "10"}
    return SourceSpec(kind, is_live, text, name, None, options)


def _camera(number: int, text: str, live: bool | None, device: str | None = None) -> SourceSpec:
    if live is False:
        raise ValueError(f"{text} is a camera: it cannot be read as a file")
    if sys.platform.startswith("linux"):
        return SourceSpec("camera", True, device or f"/dev/video{number}", text, "v4l2")
    if sys.platform == "darwin":
        return SourceSpec("camera", True, f"{number}:none", text, "avfoundation", {"framerate": "30"})
    raise ValueError(f"{text}: cameras work on Linux and macOS only; elsewhere use a pipe: ffmpeg ... | livecc ... -")


def _parse_path(text: str, live: bool | None) -> SourceSpec:
    path = Path(text)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {redact(text)}")
    status = path.stat()
    if stat.S_ISCHR(status.st_mode) and sys.platform.startswith("linux") and os.major(status.st_rdev) == _V4L_MAJOR:
        return _camera(0, text, live, device=text)  # under another name, such as /dev/v4l/by-id/...
    if path.suffix.lower() == ".sdp" and live is not False:
        return SourceSpec("stream", True, text, text, "sdp", _SHORT_ANALYSIS | _SDP, is_path=True)
    is_pipe = stat.S_ISFIFO(status.st_mode)
    if not is_pipe and live is not True:
        return SourceSpec("file", False, text, text, is_path=True)
    if path.is_dir():
        raise ValueError(f"{text} is a folder: expected a video file")
    # With live=True a file is played like a live source.
    return _pipe(text, text, live) if is_pipe else SourceSpec("stream", True, text, text, is_path=True)


def _pipe(path: str, name: str, live: bool | None) -> SourceSpec:
    # Unlike a server's stream, a pipe starts with a key frame, which is enough for the analysis.
    options = {} if live is False else _SHORT_ANALYSIS | {"analyzeduration": "500000"}
    return SourceSpec("stdin", live is not False, path, name, None, options)
