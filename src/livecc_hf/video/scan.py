"""Scans all packets of a file for its exact length, and for whether its times are unique.

Lengths in headers are estimates. They are wrong or missing in recordings that were cut off or made by a browser, in
concatenated files and in damaged ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from livecc_hf.modeling.video_file import (
    VideoReadError,
    clock_start,
    find_video_stream,
    import_av,
    local_file,
    nothing_decoded,
    open_video,
)

from .reach import PacketReach

# IDs of Matroska elements: header, body, and padding.
_EBML, _SEGMENT, _VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class PacketScan:
    """Times of a video by its packets, in seconds on the file's clock.

    Attributes:
        clock_start: the time that players show as 0:00.
        end: when the last frame leaves the screen, with damaged jumps removed; `None` if there is no frame.
        is_in_order: whether times never go back, so that each occurs at one place of the file.
    """

    clock_start: Fraction
    end: Fraction | None
    is_in_order: bool


def measure_duration(path: str | os.PathLike) -> float:
    """Return a video's length in seconds, from the time that players show as 0:00 to the end of its last frame.

    All packets are read, without decoding. Results are cached until the file changes.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video, or it has no frame.
        ImportError: PyAV is not installed.
    """
    scan = scan_packets(path)
    if scan.end is None:
        raise nothing_decoded(path)
    return float(scan.end - scan.clock_start)


def scan_packets(path: str | os.PathLike) -> PacketScan:
    """Scan the packets of a file's video; raises as `measure_duration`."""
    path = local_file(path)
    try:
        stat = Path(path).stat()
    except OSError:
        stat = None  # opening the file raises the error
    return _scan(path, *((stat.st_size, stat.st_mtime_ns) if stat else (0, 0)))


def demuxed(container: Any, on_error: Callable[[], None] | None = None) -> Iterator[Any]:
    """Yield the packets of an open file, up to the first one that cannot be read.

    Args:
        container: an `av` input container.
        on_error: called if reading stops before the end.
    """
    try:
        yield from container.demux()
    except IndexError:
        pass  # PyAV raises this at the end of files with streams that appear after opening
    except Exception:  # damage surfaces as many types of exception in PyAV
        if on_error is not None:
            on_error()


def is_seekable(path: str | os.PathLike, container: Any) -> bool:
    """Return whether each time occurs at one place of an open file, because its times never go back."""
    if "matroska" in container.format.name and _is_one_segment(path):
        return True
    try:
        return scan_packets(path).is_in_order
    except VideoReadError:
        return False


@lru_cache(maxsize=4096)
def _scan(path: str, size_bytes: int, mtime_ns: int) -> PacketScan:
    """Scan a file; size and modification time are part of the cache key, for files that are replaced."""
    scan, has_jumped = _read(path, with_sound=False)
    # The sound shows whether a long step is damage.
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
        scan = PacketScan(clock_start(container), reach.end_of(video.index), not reach.goes_back(video.index))
        return scan, reach.n_jumps(video.index) > 0


def _is_one_segment(path: str | os.PathLike) -> bool:
    """Return whether the first segment of a Matroska file reaches to its end."""
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
    """Return the ID of the Matroska element at a position, and the start and size (`None`: unknown) of its content."""
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
