"""Downloads videos with captions and metadata by yt-dlp, politely: slowly, one at a time, and each only once."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...utils.extras import require_extra

_RATE = re.compile(r"(\d+(?:\.\d+)?)([KMG]?)", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_KNOWN = "has already been recorded in the archive"
_ITEM = "Downloading item"  # of a playlist
_NO_CAPTIONS = "Unable to download video subtitles"
_SAY_EVERY_S = 15.0
_DISK_FULL = ("[Errno 28]", "[Errno 122]")
ARCHIVE, CAPTIONS_ARCHIVE = "archive.txt", "archive-captions.txt"


@dataclass(frozen=True)
class FetchOptions:
    """How videos are fetched."""

    languages: tuple[str, ...] = field(default=("en",), metadata={"help": "Languages of the captions."})
    max_height_px: int = field(default=720, metadata={"help": "Highest picture to prefer, in pixels."})
    video: bool = field(default=True, metadata={"help": "Fetch the video; else captions and metadata only."})
    rate: str = field(default="4M", metadata={"help": "Limit in bytes a second, such as 500K or 4M; 0: no limit."})
    sleep_s: float = field(
        default=5.0, metadata={"help": "Seconds between videos, at random up to three times as long."}
    )
    retries: int = field(default=10, metadata={"help": "How often a request is tried again."})
    cookies: str | None = field(default=None, metadata={"help": "A cookies.txt file."})

    def __post_init__(self) -> None:
        if not self.languages:
            raise ValueError("there are no languages: expected some, such as en")
        if self.max_height_px < 1:
            raise ValueError(f"max_height_px is {self.max_height_px}; expected a height such as 720")
        if not 0 <= self.sleep_s <= 3600:
            raise ValueError(f"sleep_s is {self.sleep_s}; expected 0 to 3600 seconds")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; expected 0 or more")
        if self.cookies is not None and not Path(self.cookies).expanduser().is_file():
            raise FileNotFoundError(f"there is no cookies file {self.cookies}")
        parse_rate(self.rate)


@dataclass(frozen=True)
class FetchResult:
    """The result of a download.

    Attributes:
        done: number of videos fetched now, with each video of a playlist.
        known: number of videos that were fetched earlier.
        failed: address and reason of each that could not be fetched.
    """

    done: int
    known: int
    failed: list[tuple[str, str]]


def read_urls(path: str | os.PathLike) -> list[str]:
    """Read a file with one address a line; blank lines and those that begin with # are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not an address, or the file holds none.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: expected a text file with one address a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error}): expected a text file with one address a line; save it as UTF-8"
        ) from error
    urls = []
    for number, line in enumerate(lines, 1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        if "://" not in url or " " in url:
            raise ValueError(f"line {number} of {path} is {url[:80]!r}: expected an address such as https://...")
        urls.append(url)
    if not urls:
        raise ValueError(f"{path} holds no address: expected one a line")
    return list(dict.fromkeys(urls))


def parse_rate(text: str) -> int | None:
    """Return bytes per second from a text such as "500K"; `None` for no limit.

    Raises:
        ValueError: if the text is not a rate.
    """
    match = _RATE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"rate is {text!r}; expected bytes per second such as 500K or 4M, or 0 for no limit")
    return round(float(match[1]) * _FACTORS[match[2].upper()]) or None


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
        # "en-orig" is the original, of which "en" may be a machine translation.
        "subtitleslangs": [tag for name in options.languages for tag in (name, f"{name}-orig")],
        "subtitlesformat": "json3/vtt/best",
        # Captions without videos have an archive of their own, so that the videos can be fetched later.
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
    say: Callable[[str], None] | None = None,
) -> FetchResult:
    """Download videos, except those listed in the archive file in the folder.

    A video is listed once all of it was fetched: if captions fail, the other files are kept, and the same call tries
    the captions again.

    Args:
        urls: addresses of videos or playlists that yt-dlp knows.
        out: folder; it gets `NAME.mp4`, `NAME.en.json3` and `NAME.info.json` for each video, as `livecc data build`
            reads them.
        options: see `FetchOptions`.
        say: called with each line of progress; default: print to standard error.

    Raises:
        ImportError: if yt-dlp is not installed.
        OSError: if the disk is full; the files so far are kept, and the same call continues.
    """
    require_extra("fetch", "livecc data fetch")
    options, say = options or FetchOptions(), say or _say_to_stderr
    out = Path(out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    listener = _Listener(say)
    settings = ytdlp_options(out, options) | {"logger": listener, "progress_hooks": [listener.progress]}
    archive = Path(settings["download_archive"])
    done_before, failed = _count_lines(archive), []
    with _downloader(settings) as downloader:
        for number, url in enumerate(urls, 1):
            before, known = _count_lines(archive), listener.known
            listener.errors.clear()
            say(f"{number} of {len(urls)}: {url}")
            downloader.download([url])  # its result says nothing: it stays 1 after a first failure
            if listener.errors:
                reason = " ".join("; ".join(listener.errors).split())[:500]
                if any(mark in reason for mark in _DISK_FULL):
                    raise OSError(f"the disk of {out} is full: free some space and run the same command again")
                failed.append((url, reason))
                say(f"  failed: {reason}")
            say(f"  {_count_lines(archive) - before} fetched, {listener.known - known} were there")
    return FetchResult(_count_lines(archive) - done_before, listener.known, failed)


def _downloader(settings: dict[str, Any]) -> Any:
    """Return a `yt_dlp.YoutubeDL` that does not list a video in the archive if its captions failed."""
    from yt_dlp import YoutubeDL

    class Downloader(YoutubeDL):
        def record_download_archive(self, info_dict: dict[str, Any]) -> None:
            # It goes on without what cannot be fetched, and would never ask for it again.
            wanted = info_dict.get("requested_subtitles") or {}
            lost = [name for name, captions in wanted.items() if not Path(captions.get("filepath") or "").is_file()]
            if lost:
                self.report_error(f"{info_dict.get('id')} has captions ({', '.join(lost)}) that could not be fetched")
            else:
                super().record_download_archive(info_dict)

    return Downloader(settings)


def _say_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Listener:
    """Receives yt-dlp's messages: keeps errors, counts known videos, and passes on progress."""

    def __init__(self, say: Callable[[str], None]):
        self.errors: list[str] = []
        self.known = 0
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
        """Report finished files, and now and then the file that is being downloaded."""
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
    """Return a message without colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", message)


def _count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
