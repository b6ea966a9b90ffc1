"""What only reading a file's packets to the end tells: how long it is, and whether a time occurs once in it.

Headers give lengths as estimates: of a recording that was cut off, of one that a browser made, of files that were
joined, and of damaged ones they are wrong or missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from livecc_hf.modeling.video_file import VideoReadError, clock_start, find_video_stream, import_av, open_video

from .reach import PacketReach

# Matroska's elements: the header, the one that holds all the rest, and filling.
_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class PacketScan:
    """What a video's packets say, in seconds on the file's clock.

    Attributes:
        clock_start: what a player shows as 0:00.
        end: when the last picture leaves the screen, `None` if there is none; jumps that are damage are left out.
        is_in_order: whether times never go back, so that each is one place of the file.
    """

    clock_start: Fraction
    end: Fraction | None
    is_in_order: bool


def measure_duration(path: str | os.PathLike) -> float:
    """Return how long a video is, in seconds from what a player shows as 0:00 to the end of its last picture.

    Its packets are read to the end; none is decoded. Of a file that does not change this happens once.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video, or it holds no picture.
        ImportError: PyAV is not installed.
    """
    scan = scan_packets(path)
    if scan.end is None:
        raise VideoReadError(f"{path} has a video stream, but it holds no picture")
    return float(scan.end - scan.clock_start)


def scan_packets(path: str | os.PathLike) -> PacketScan:
    """Read the packets of a file's video; see `measure_duration` for errors."""
    try:
        stat = Path(path).stat()
    except OSError:
        stat = None  # what opens the file says what is wrong
    return _scan(os.fspath(path), *((stat.st_size, stat.st_mtime_ns) if stat else (0, 0)))


def demuxed(container: Any, on_error: Callable[[], None] | None = None) -> Iterator[Any]:
    """Yield the packets of an open file, up to the first that cannot be read.

    Args:
        container: an `av` input container.
        on_error: called where reading breaks off.
    """
    try:
        yield from container.demux()
    except IndexError:
        pass  # PyAV reads all, then trips over streams that began after it opened the file
    except Exception:  # whatever PyAV makes of damage
        if on_error is not None:
            on_error()


def is_seekable(path: str | os.PathLike, container: Any) -> bool:
    """Return whether a time leads to one place of an open file because its times never go back."""
    if "matroska" in container.format.name and _is_one_segment(path):
        return True
    try:
        return scan_packets(path).is_in_order
    except VideoReadError:
        return False


@lru_cache(maxsize=4096)
def _scan(path: str, size_bytes: int, mtime_ns: int) -> PacketScan:
    """Scan a file; size and time of change make a file that was replaced another one."""
    scan, has_jumped = _read(path, with_sound=False)
    # Whether a long step is damage shows in the sound beside it.
    return _read(path, with_sound=True)[0] if has_jumped else scan


def _read(path: str, with_sound: bool) -> tuple[PacketScan, bool]:
    """Return the scan, and whether times jumped."""
    av = import_av()
    with open_video(path) as container:
        video = find_video_stream(container, path)
        kept = [stream for stream in container.streams if stream is video or (with_sound and stream.type == "audio")]
        for stream in container.streams:
            if stream not in kept:
                stream.discard = av.stream.Discard.all
        reach = PacketReach(kept)
        for packet in demuxed(container):
            reach.note(packet)
        scan = PacketScan(clock_start(container), reach.of(video.index), not reach.goes_back(video.index))
        return scan, reach.n_jumps(video.index) > 0


def _is_one_segment(path: str | os.PathLike) -> bool:
    """Return whether a Matroska file says that its first segment is all of it."""
    with Path(path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
    at = 0
    while (element := _element(head, at)) is not None:
        name, begin, size = element
        if name == _SEGMENT:
            return size is not None and begin + size >= Path(path).stat().st_size
        if name not in (_EBML, _VOID) or size is None:
            return False
        at = begin + size
    return False


def _element(data: bytes, at: int) -> tuple[bytes, int, int | None] | None:
    """Return the name of the Matroska element at a place, where its content begins, and how long that is if it says."""
    bounds = [at]
    for _ in ("name", "size"):
        first = data[bounds[-1] : bounds[-1] + 1]
        if first in (b"", b"\0"):
            return None
        bounds.append(bounds[-1] + 9 - first[0].bit_length())
    number = data[bounds[1] : bounds[2]]
    mask = (1 << 7 * len(number)) - 1
    size = int.from_bytes(number, "big") & mask
    return data[bounds[0] : bounds[1]], bounds[2], None if size == mask else size
