"""Loads whole videos for questions with the package's reader; see `livecc_hf.modeling.video_loading`."""

from __future__ import annotations

import os
from typing import Any

from livecc_hf.modeling import video_loading
from livecc_hf.modeling.video_file import VideoTimes
from livecc_hf.modeling.video_loading import LoadedVideo, LoadOptions

from .probe import probe_video
from .reader import iter_frames
from .scan import measure_duration


def load_video(path: str | os.PathLike, video_processor: Any, options: LoadOptions | None = None) -> LoadedVideo:
    """Load a video for a question about it; arguments and errors as in `video_loading.load_video`."""
    return video_loading.load_video(path, video_processor, options, iter_frames, _read_times)


def _read_times(path: str) -> VideoTimes:
    info = probe_video(path)
    return VideoTimes(info.clock_start_s, info.first_pts_s, info.clock_start_s + measure_duration(path))
