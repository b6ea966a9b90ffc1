"""Quick check, before PyTorch is imported, that a file is a video."""

from __future__ import annotations

import os
from pathlib import Path

from livecc_hf.modeling.video_file import file_url, local_file


class NoVideoError(ValueError):
    """The file is not a video."""


def check_is_video(path: str | os.PathLike) -> None:
    """Check with PyAV that a file has a video stream.

    A file that passes may still be damaged; `livecc_hf.video.reader.probe_video` detects that, with the same messages
    (`tests/sources/test_early_check.py` compares them).

    Raises:
        FileNotFoundError: if there is no such file.
        NoVideoError: if it is a folder, empty or a text, has only sound, or is in a format unknown to FFmpeg.
    """
    if not os.fspath(path):
        raise NoVideoError("the file name is empty: expected a video file")
    file = Path(local_file(path))
    if file.is_dir():
        raise NoVideoError(f"{path} is a folder: expected a video file")
    if not file.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if file.is_file() and not file.stat().st_size:
        raise NoVideoError(f"{path} is empty (0 bytes): expected a video file")
    try:
        import av
    except ImportError:  # the error of the video reader says how to install PyAV
        return
    try:
        container = av.open(file_url(path), metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NoVideoError(f"{path} is not a video file that can be read: {reason}") from error
    with container:
        if container.format.name == "tty":  # FFmpeg renders any text file as a recorded terminal session
            raise NoVideoError(f"{path} is a text file, not a video")
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise NoVideoError(f"{path} has no video stream to watch (it holds: {kinds})")
