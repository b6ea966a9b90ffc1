"""Reads the properties of a video file: its header and first frame."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass

from livecc_hf.modeling.video_file import Orientation, display_orientation, nothing_decoded

from .source import RepairedSource


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video file.

    Attributes:
        duration_s: length of the video in seconds, as estimated by its header; `None` if unknown. `measure_duration`
            returns the exact length.
        clock_start_s: earliest time over all streams on the file's clock, which players show as 0:00. A time that a
            player shows plus this is a time on the file's clock.
        first_pts_s: presentation time of the first decodable frame, on the file's clock.
        width, height: displayed size (after rotation) in pixels.
        frame_rate: average frames per second by the header, `None` if unknown.
        orientation: how to turn the stored picture into the displayed one.
        codec: name of the video codec.
        has_audio: whether there is an audio stream.
    """

    duration_s: float | None
    clock_start_s: float
    first_pts_s: float
    width: int
    height: int
    frame_rate: float | None
    orientation: Orientation
    codec: str
    has_audio: bool

    @property
    def rotation_deg(self) -> int:
        """Counter-clockwise rotation from stored to displayed picture: 0, 90, 180 or 270."""
        if self.orientation.transpose:
            return 90 if self.orientation.flip_vertical else 270
        return 180 if self.orientation.flip_vertical else 0


def probe_video(path: str | os.PathLike) -> VideoInfo:
    """Read a video's header and decode its first frame.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video, or no frame can be decoded.
        ImportError: PyAV is not installed.
    """
    with closing(RepairedSource(path)) as source:
        first = next(source.frames(), None)
        if first is None:
            raise nothing_decoded(path)
        stream, container = source.stream, source.container
        orientation = display_orientation(first.frame)
        size = (first.frame.width, first.frame.height)
        width, height = size[::-1] if orientation.transpose else size
        duration = None
        if stream.duration is not None:
            duration = float(stream.duration * stream.time_base)
        elif (end := source.header_end) is not None:
            duration = float(end - source.clock_start())
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(
            duration_s=duration,
            clock_start_s=float(source.clock_start(default=first.time)),
            first_pts_s=float(first.time),
            width=width,
            height=height,
            frame_rate=float(rate) if rate else None,
            orientation=orientation,
            codec=stream.codec_context.name,
            has_audio=bool(container.streams.audio),
        )
