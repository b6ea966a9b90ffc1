"""Whole videos for questions, read past damage; see `livecc_hf.modeling.video_loading`."""

from __future__ import annotations

import os

from livecc_hf.modeling import video_loading
from livecc_hf.modeling.video_loading import FrameResizer, LoadedVideo, LoadOptions

from .reader import iter_frames
from .scan import measure_duration


def load_video(
    path: str | os.PathLike, video_processor: FrameResizer, options: LoadOptions | None = None
) -> LoadedVideo:
    """Read a video as the model is asked about it; arguments and errors as `video_loading.load_video`."""
    return video_loading.load_video(path, video_processor, options, iter_frames, measure_duration)
