"""Opens media files with PyAV: a path is a path, a stream is the one a player chooses, and failing has one name."""

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

# FFmpeg "plays" any text file as a recorded terminal session.
_NOT_VIDEO_FORMATS = frozenset({"tty"})
# The unit of a container's times, in fractions of a second.
CONTAINER_TICKS = 1_000_000


class VideoReadError(ValueError):
    """The file cannot be read as a video, or holds no frame in the range asked for."""


class NoDecoderError(VideoReadError):
    """The file's video is in a format that FFmpeg, as it is here, cannot decode."""


class VideoReadWarning(UserWarning):
    """The file is damaged: only part of it could be decoded."""


def import_av() -> Any:
    """Return PyAV, or raise an ImportError that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading video files needs PyAV: pip install av") from error
    return av


def check_file(path: str | os.PathLike) -> None:
    """Raise FileNotFoundError or VideoReadError unless `path` is there and no folder."""
    if Path(path).is_dir():
        raise VideoReadError(f"{path} is a folder: expected a video file")
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file: {path}")


def file_url(path: str | os.PathLike) -> str:
    """Return what PyAV is given for a path: FFmpeg takes `10:30.mp4` for an address of protocol `10`."""
    return f"file:{os.fsdecode(path)}"


def open_video(path: str | os.PathLike) -> Any:
    """Open a file for reading as an `av` input container; use it in a `with` statement.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: FFmpeg cannot make sense of it.
        ImportError: PyAV is not installed.
    """
    av = import_av()
    check_file(path)
    try:
        container = av.open(file_url(path), metadata_errors="replace")
    except Exception as error:  # whatever PyAV makes of damage: by far not all of it is an FFmpegError
        raise VideoReadError(f"{path} is not a video file that can be read: {reason_of(error)}") from error
    if container.format.name in _NOT_VIDEO_FORMATS:
        container.close()
        raise VideoReadError(f"{path} is a text file, not a video")
    # Without this, FFmpeg gives as many times as it can; with it, PyAV has it make up those that are missing, wrongly
    # where pictures are stored in another order than shown (AVI).
    container.flags &= ~av.container.Flags.gen_pts.value
    return container


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


def reason_of(error: BaseException) -> str:
    """Return what an error of PyAV says, in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def choose_video(container: Any) -> Any | None:
    """Return the video stream of an open file that a player would choose: by default flag, then size and length.

    Returns:
        `None` if there is none that can be decoded. Cover pictures and thumbnails are no video.
    """
    streams = [stream for stream in container.streams.video if stream.codec_context and not is_cover(stream)]
    if container.format.name == "hls":
        return next(iter(streams), None)  # players begin with the first quality of a playlist
    usual = container.streams.best("video")

    def rank(stream: Any) -> tuple:
        n_pixels = stream.codec_context.width * stream.codec_context.height
        is_usual = usual is not None and stream.index == usual.index
        return stream.frames != 1, recommendation(stream), n_pixels, stream.frames, is_usual

    return max(streams, key=rank, default=None)


def find_video_stream(container: Any, path: str | os.PathLike) -> Any:
    """Return the video stream of an open file that a player would choose, set to decode with threads.

    Raises:
        NoDecoderError: there are only such that FFmpeg cannot decode.
        VideoReadError: there is none.
    """
    stream = choose_video(container)
    if stream is not None:
        # FFmpeg passes over damage to VP8 where it decodes several frames at once, and over the end of a damaged slice
        # of H.264 unless it is told to be strict; what it gives is the same.
        codec = stream.codec_context
        stream.thread_type = "SLICE" if codec.name == "vp8" else "AUTO"
        if codec.name == "h264":
            codec.options = {**codec.options, "err_detect": "aggressive"}
        return stream
    if any(s.codec_context is None and not is_cover(s) for s in container.streams.video):
        raise NoDecoderError(
            f"{path} has a video stream in a format that cannot be decoded here, or its description is damaged: "
            "convert it with the program that made it"
        )
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise VideoReadError(f"{path} has no video stream to watch (it holds: {kinds})")


def clock_start(container: Any, default: Fraction = Fraction(0)) -> Fraction:
    """Return the earliest time over all streams by an open file's header, in seconds: what players show as 0:00."""
    if container.start_time is None:
        return default
    start = Fraction(container.start_time, CONTAINER_TICKS)
    # The header's is rounded to its ticks; that of the stream which begins there is exact.
    starts = (stream.start_time * stream.time_base for stream in container.streams if stream.start_time is not None)
    nearest = min(starts, key=lambda time: abs(time - start), default=start)
    return nearest if abs(nearest - start) * CONTAINER_TICKS <= 1 else start


def is_cover(stream: Any) -> bool:
    """Return whether a stream is a cover picture or a thumbnail."""
    kinds = import_av().stream.Disposition
    return bool(stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails))


def recommendation(stream: Any) -> int:
    """Return how much a file recommends a stream: the default first, last what is made for some listeners only."""
    kinds = import_av().stream.Disposition
    special = kinds.hearing_impaired | kinds.visual_impaired | kinds.descriptions | kinds.comment | kinds.dub
    return bool(stream.disposition & kinds.default) - 2 * bool(stream.disposition & special)
