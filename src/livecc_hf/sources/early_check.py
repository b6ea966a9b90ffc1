"""Quick check, before PyTorch is imported, that a name is that of a video file."""

from __future__ import annotations

import os

from livecc_hf.modeling.video_file import VideoReadError, check_file, find_video_stream, open_video
from livecc_hf.sources.spec import is_stream_name, redact


def check_is_no_stream(text: str, expected: str) -> None:
    """Check that a name is not that of a live source or an address.

    Args:
        text: a name from the command line.
        expected: what may be given instead, for the message.

    Raises:
        VideoReadError: if it is.
    """
    if is_stream_name(text):
        raise VideoReadError(
            f"{redact(text)}: expected {expected}; cameras and live addresses are for livecc commentate"
        )


def check_is_video(path: str | os.PathLike) -> None:
    """Check with PyAV that a file has a video stream.

    A file that passes may still be damaged; `livecc_hf.video.reader.probe_video` detects that.

    Raises:
        FileNotFoundError: if there is no such file.
        VideoReadError: if it is a folder, empty, a text or a picture, has only sound, or is in a format unknown to
            FFmpeg.
    """
    check_file(path)
    try:
        container = open_video(path)
    except ImportError:  # the error of the video reader says how to install PyAV
        return
    with container:
        if container.format.name.endswith("_pipe"):  # such as jpeg_pipe
            raise VideoReadError(f"{path} is a picture, not a video; livecc ask answers questions about pictures")
        find_video_stream(container, path)
