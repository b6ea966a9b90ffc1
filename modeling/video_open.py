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
    """PyAV, or an ImportError that says how to get it."""
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
    """What PyAV is given for a path, to read or to write: FFmpeg takes `10:30.mp4` for an address of protocol `10`."""
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
    """The packets of an open file, up to the first that cannot be read.

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
    """What an error of PyAV says, in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def choose_stream(container: Any, kind: str, beside: Any = None) -> Any | None:
    """The stream of an open file that a player would choose: as FFmpeg, by default flag, then size and length.

    Args:
        container: an `av` input container.
        kind: "video" or "audio".
        beside: a stream that it belongs to, such as the video whose sound is wanted; in a broadcast of several
            programs, each has its own.

    Returns:
        `None` if there is none that can be decoded. Cover pictures and thumbnails are no video.
    """
    streams = [s for s in container.streams if s.type == kind and s.codec_context is not None and not _is_picture(s)]
    if kind == "audio":  # one without a rate has no description, or a damaged one
        streams = [s for s in streams if s.codec_context.sample_rate]
    if kind == "video" and container.format.name == "hls":
        return next(iter(streams), None)  # players begin with the first quality of a playlist
    usual = container.streams.best(kind, beside)

    def rank(stream: Any) -> tuple:
        context = stream.codec_context
        is_usual = usual is not None and stream.index == usual.index
        if kind != "video":
            return _disposition_rank(stream), is_usual
        return stream.frames != 1, _disposition_rank(stream), context.width * context.height, stream.frames, is_usual

    return max(streams, key=rank, default=None)


def find_video_stream(container: Any, path: str | os.PathLike) -> Any:
    """The video stream of an open file that a player would choose, set to decode with threads.

    Raises:
        NoDecoderError: there are only such that FFmpeg cannot decode.
        VideoReadError: there is none.
    """
    stream = choose_stream(container, "video")
    if stream is not None:
        # FFmpeg passes over damage to VP8 where it decodes several frames at once, and over the end of a damaged slice
        # of H.264 unless it is told to be strict; what it gives is the same.
        codec = stream.codec_context
        stream.thread_type = "SLICE" if codec.name == "vp8" else "AUTO"
        if codec.name == "h264":
            codec.options = {**codec.options, "err_detect": "aggressive"}
        return stream
    if any(s.codec_context is None and not _is_picture(s) for s in container.streams.video):
        raise NoDecoderError(
            f"{path} has a video stream in a format that cannot be decoded here, or its description is damaged: "
            "convert it with the program that made it"
        )
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise VideoReadError(f"{path} has no video stream to watch (it holds: {kinds})")


def clock_start(container: Any, default: Fraction = Fraction(0)) -> Fraction:
    """The earliest time over all streams of an open file by its header, in seconds: what players show as 0:00."""
    if container.start_time is None:
        return default
    start = Fraction(container.start_time, CONTAINER_TICKS)
    # The header's is rounded to its ticks; that of the stream which begins there is exact.
    starts = (stream.start_time * stream.time_base for stream in container.streams if stream.start_time is not None)
    nearest = min(starts, key=lambda time: abs(time - start), default=start)
    return nearest if abs(nearest - start) * CONTAINER_TICKS <= 1 else start


def _is_picture(stream: Any) -> bool:
    kinds = import_av().stream.Disposition
    return bool(stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails))


def _disposition_rank(stream: Any) -> int:
    """How much a file recommends a stream: the default first, last what is made for some listeners only."""
    kinds = import_av().stream.Disposition
    special = kinds.hearing_impaired | kinds.visual_impaired | kinds.descriptions | kinds.comment | kinds.dub
    return bool(stream.disposition & kinds.default) - 2 * bool(stream.disposition & special)
