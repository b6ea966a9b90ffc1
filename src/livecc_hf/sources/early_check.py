"""Quick check, before PyTorch is imported, that a file is a video."""

from __future__ import annotations

import os

from livecc_hf.modeling.video_file import check_file, find_video_stream, open_video


def check_is_video(path: str | os.PathLike) -> None:
    """Check with PyAV that a file has a video stream.

    A file that passes may still be damaged; `livecc_hf.video.reader.probe_video` detects that.

    Raises:
        FileNotFoundError: if there is no such file.
        VideoReadError: if it is a folder, empty or a text, has only sound, or is in a format unknown to FFmpeg.
    """
    check_file(path)
    try:
        container = open_video(path)
    except ImportError:  # the error of the video reader says how to install PyAV
        return
    with container:
        find_video_stream(container, path)
