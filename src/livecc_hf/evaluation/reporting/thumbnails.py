"""Makes thumbnails of a clip, as `data:` URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from ..predictions.rows import CommentaryRow
from ..tasks.questions import FrameRule
from ..tasks.videos import VideoFolder

_HEIGHT_PX, _QUALITY = 72, 60


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a frame.

    Attributes:
        time_s: time of the frame in the video, in seconds.
        source: the picture as a `data:` URL.
    """

    time_s: float
    source: str


Thumbnails = Callable[[CommentaryRow, int], list[Thumbnail]]


def no_thumbnails(row: CommentaryRow, n: int) -> list[Thumbnail]:
    """Return [], for a page without videos."""
    return []


def thumbnails_from(folder: VideoFolder) -> Thumbnails:
    """Return a function that makes n thumbnails of a commentary's clip, or [] if the video is missing or broken."""

    def make_thumbnails(row: CommentaryRow, n: int) -> list[Thumbnail]:
        from livecc_hf.evaluation.running.frames import sample_clip

        path = folder.find([f"{row.video}.mp4", row.video])  # some benchmarks name a video without its suffix
        if path is None:
            return []
        try:
            clip = sample_clip(path, row.begin_s, row.end_s, FrameRule(n_frames=n), _small)
        except (ValueError, OSError):
            return []
        return [Thumbnail(time, _jpeg(frame)) for time, frame in zip(clip.times_s, clip.frames, strict=True)]

    return make_thumbnails


def _small(frames, _max_pixels: int):
    """Return frames (1, 3, H, W) resized to a thumbnail's height."""
    from torchvision.transforms.v2 import functional

    height, width = frames.shape[-2:]
    return functional.resize(frames, [_HEIGHT_PX, max(round(width * _HEIGHT_PX / height), 1)], antialias=True)


def _jpeg(frame) -> str:
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
