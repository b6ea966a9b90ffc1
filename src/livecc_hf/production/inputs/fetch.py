"""Downloads videos with captions and metadata by yt-dlp: rate-limited, one at a time, and each only once."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...captions.languages import language_code
from ...utils.extras import require_extra
from ...utils.output_folder import make_output_folder
from ...utils.reports import Say, say_to_stderr

_RATE = re.compile(r"(\d+(?:\.\d+)?)([KMG]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
# Parts of yt-dlp's messages.
_KNOWN = "has already been recorded in the archive"
_ITEM = "Downloading item"  # of a playlist
_NO_CAPTIONS = "Unable to download video subtitles"
_SAY_EVERY_S = 15.0
_DISK_FULL = ("[Errno 28]", "[Errno 122]")
ARCHIVE, CAPTIONS_ARCHIVE = "archive.txt", "archive-captions.txt"


@dataclass(frozen=True)
class FetchOptions:
    """Options of a download."""

    languages: tuple[str, ...] = field(default=("en",), metadata={"help": "Languages of the captions."})
    max_height_px: int = field(
        default=720, metadata={"help": "Prefer the largest picture up to this height, in pixels."}
    )
    video: bool = field(default=True, metadata={"help": "Fetch the video; false: captions and metadata only."})
    rate: str = field(default="4M", metadata={"help": "Limit in bytes per second, such as 500K or 4M; 0: no limit."})
    sleep_s: float = field(
        default=5.0,
        metadata={"help": "Shortest wait between videos in seconds; it is random, up to three times as long."},
    )
    retries: int = field(default=10, metadata={"help": "Retries of a request."})
    cookies: str | None = field(default=None, metadata={"help": "A cookies.txt file."})

    def __post_init__(self) -> None:
        if not self.languages:
            raise ValueError("languages is empty: expected at least one, such as en")
        for name in self.languages:
            _check_tag(name)
        if self.max_height_px < 1:
            raise ValueError(f"max_height_px is {self.max_height_px}: expected a height such as 720")
        if not 0 <= self.sleep_s <= 3600:
            raise ValueError(f"sleep_s is {self.sleep_s}: expected 0 to 3600 seconds")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}: expected 0 or more")
        if self.cookies is not None and not Path(self.cookies).expanduser().is_file():
            raise FileNotFoundError(f"cookies file {self.cookies} does not exist: expected a cookies.txt file")
        parse_rate(self.rate)


@dataclass(frozen=True)
class FetchResult:
    """The result of a download.

    Attributes:
        done: number of videos fetched by this call; each video of a playlist counts.
        known: number of videos fetched earlier.
        failed: the URLs that could not be fetched whole, each with the reason.
    """

    done: int
    known: int
    failed: list[tuple[str, str]]


def read_urls(path: str | os.PathLike) -> list[str]:
    """Read a text file with one URL per line; blank lines and lines that begin with # are left out.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a line is not a URL, or the file has none.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a text file with one URL per line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error}): expected a text file with one URL per line; save it as UTF-8"
        ) from error
    urls = []
    for number, line in enumerate(lines, 1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        if "://" not in url or " " in url:
            raise ValueError(f"line {number} of {path} is {url[:80]!r}: expected a URL such as https://...")
        urls.append(url)
    if not urls:
        raise ValueError(f"{path} holds no URL: expected one per line")
    return list(dict.fromkeys(urls))


def parse_rate(text: str) -> int | None:
    """Return bytes per second from a text such as "500K"; `None` for no limit.

    Raises:
        ValueError: if the text is not a rate.
    """
    match = _RATE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"rate is {text!r}: expected bytes per second such as 500K or 4M, or 0 for no limit")
    rate = float(match[1]) * _FACTORS[match[2].upper()]
    return max(round(rate), 1) if rate else None


def _check_tag(name: str) -> None:
    """Raise a ValueError if a language cannot be a tag of captions, or yt-dlp's pattern of tags."""
    try:
        re.compile(name)
        is_pattern = True
    except re.error:
        is_pattern = False
    if not is_pattern or re.search(r"[\s;:/]", name):
        raise ValueError(f"languages has {name!r}: expected codes separated by commas, such as en,de")


def _caption_tags(languages: Sequence[str]) -> list[str]:
    """Return yt-dlp's tags of captions: the given ones, and the shortest code of a language, which sites use."""
    names = [code for name in languages for code in (name, language_code(name) if name.isalpha() else None) if code]
    # "en-orig" is the original; "en" may be machine-translated from it.
    return [*dict.fromkeys(tag for name in names for tag in (name, f"{name}-orig"))]


def ytdlp_options(out: str | os.PathLike, options: FetchOptions) -> dict[str, Any]:
    """Return the options for `yt_dlp.YoutubeDL`."""
    out = Path(out).expanduser().absolute()
    found: dict[str, Any] = {
        "paths": {"home": str(out)},
        "outtmpl": {"default": "%(extractor)s-%(id)s.%(ext)s", "pl_infojson": ""},  # a playlist is not a video
        "format_sort": [f"res:{options.max_height_px}", "vcodec:h264", "ext:mp4:m4a"],
        "skip_download": not options.video,
        "writeinfojson": True,
        "writesubtitles": True,
        "writeautomaticsub": True,
        "subtitleslangs": _caption_tags(options.languages),
        "subtitlesformat": "json3/vtt/best",
        # Downloads of captions alone have an archive of their own, so that the videos can be fetched later.
        "download_archive": str(out / (ARCHIVE if options.video else CAPTIONS_ARCHIVE)),
        "force_write_download_archive": not options.video,
        "overwrites": False,
        "continuedl": True,
        "retries": options.retries,
        "fragment_retries": options.retries,
        "extractor_retries": 3,
        "sleep_interval": options.sleep_s,
        "max_sleep_interval": 3 * options.sleep_s,
        "sleep_interval_requests": options.sleep_s / 5,
        "sleep_interval_subtitles": options.sleep_s / 5,
        "ignoreerrors": True,
        "noprogress": True,
    }
    rate = parse_rate(options.rate)
    if rate is not None:
        found["ratelimit"] = rate
    if options.cookies is not None:
        found["cookiefile"] = str(Path(options.cookies).expanduser())
    return found


def fetch(
    urls: Sequence[str],
    out: str | os.PathLike,
    options: FetchOptions | None = None,
    say: Say = say_to_stderr,
) -> FetchResult:
    """Download videos, except those that the archive file in the folder lists.

    A video is listed once all of its files were fetched. If captions fail, the other files are kept, and the same call
    requests the captions again.

    Args:
        urls: of videos or playlists that yt-dlp supports.
        out: folder for `NAME.mp4`, `NAME.en.json3` and `NAME.info.json` of each video, as `livecc data build` reads
            them.
        options: see `FetchOptions`.
        say: called with each line of progress.

    Raises:
        ImportError: if yt-dlp is not installed.
        ValueError: if the folder cannot be written.
        OSError: if the disk is full; the files so far are kept, and the same call continues the download.
    """
    require_extra("fetch", "livecc data fetch")
    options = options or FetchOptions()
    out = Path(out).expanduser()
    make_output_folder(out)
    listener, failed = _Listener(say), []
    settings = ytdlp_options(out, options) | {"logger": listener, "progress_hooks": [listener.progress]}
    with _downloader(settings, listener) as downloader:
        for number, url in enumerate(urls, 1):
            before, known = listener.done, listener.known
            listener.errors.clear()
            say(f"{number} of {len(urls)}: {url}")
            downloader.download([url])  # its exit code is of no use: after a first failure it stays 1
            if listener.errors:
                reason = " ".join("; ".join(listener.errors).split())[:500]
                if any(mark in reason for mark in _DISK_FULL):
                    raise OSError(f"the disk of {out} is full: free some space and run the same command again")
                failed.append((url, reason))
                say(f"  failed: {reason}")
            say(f"  {listener.done - before} fetched, {listener.known - known} fetched earlier")
    return FetchResult(listener.done, listener.known, failed)


def _downloader(settings: dict[str, Any], listener: _Listener) -> Any:
    """Return a `yt_dlp.YoutubeDL` that does not list a video in the archive if its captions failed."""
    from yt_dlp import YoutubeDL

    class Downloader(YoutubeDL):
        def record_download_archive(self, info_dict: dict[str, Any]) -> None:
            # yt-dlp would continue without captions that fail, list the video, and never request them again.
            wanted = info_dict.get("requested_subtitles") or {}
            lost = [name for name, captions in wanted.items() if not Path(captions.get("filepath") or "").is_file()]
            if lost:
                self.report_error(f"captions of {info_dict.get('id')} could not be fetched: {', '.join(lost)}")
            else:
                super().record_download_archive(info_dict)
                listener.done += 1

    return Downloader(settings)


class _Listener:
    """Receives yt-dlp's messages: collects errors, counts videos, and reports progress."""

    def __init__(self, say: Say):
        self.errors: list[str] = []
        self.known = self.done = 0
        self._say = say
        self._said_at_s = time.monotonic()

    def debug(self, message: str) -> None:
        self.known += _KNOWN in message
        if _ITEM in message:
            self._say(f"  {_plain(message).removeprefix('[download] ')}")

    def info(self, message: str) -> None:
        self.debug(message)

    def warning(self, message: str) -> None:
        if _NO_CAPTIONS in message:
            self.error(message)

    def error(self, message: str) -> None:
        self.errors.append(_plain(message).removeprefix("ERROR: "))

    def progress(self, status: dict[str, Any]) -> None:
        """Report finished files, and every 15 s the file that is being downloaded."""
        now_s, name = time.monotonic(), Path(status.get("filename") or "").name
        got, size = status.get("downloaded_bytes") or 0, status.get("total_bytes") or status.get("total_bytes_estimate")
        if status["status"] == "finished":
            self._say(f"  {name}: {(size or got) / 1e6:,.1f} MB")
        elif status["status"] == "downloading" and now_s - self._said_at_s > _SAY_EVERY_S:
            of = f" of {size / 1e6:,.1f}" if size else ""
            self._say(f"  {name}: {got / 1e6:,.1f}{of} MB, {(status.get('speed') or 0) / 1e6:,.1f} MB/s")
        else:
            return
        self._said_at_s = now_s


def _plain(message: str) -> str:
    """Return a message without ANSI colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", message)
