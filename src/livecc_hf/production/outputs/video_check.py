"""Checks by its content whether a file is a video, since a manifest may name any file."""

from __future__ import annotations

import os

from ...modeling.video_file import VideoReadError, find_video_stream, open_video

# Formats of FFmpeg that are not videos: lists of other files, single pictures, and formats chosen by suffix alone.
_NO_VIDEOS = frozenset(
    {"adf", "bin", "concat", "dash", "hls", "ico", "idf", "image2", "rawvideo", "sdp", "smush", "tty", "xbin"}
)


def why_no_video(path: str | os.PathLike) -> str | None:
    """Return why a file is not a playable video, or `None` if it is one; reads only the beginning of the file.

    Args:
        path: of the file.
    """
    try:
        with open_video(path) as container:
            name = container.format.name
            if name in _NO_VIDEOS or name.endswith("_pipe"):
                return f"{path} is not a video: FFmpeg reads it as {name}"
            find_video_stream(container, path)
    except (VideoReadError, OSError) as error:
        return str(error)
    return None
