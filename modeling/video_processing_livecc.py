"""Converts frames to patches, with LiveCC's pixel limits, resizing and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .configuration_livecc import LiveCCConfig  # noqa: F401, checks transformers' version first # isort: skip
from transformers import BatchFeature, Qwen2VLVideoProcessor
from transformers.image_utils import SizeDict
from transformers.video_utils import VideoInput, make_batched_videos

from .backbone import Backbone
from .backbones import backbone_of_patches, find_backbone
from .frames import EXPECTED, as_tensor
from .grammar import FRAMES_PER_SECOND, MAX_FRAME_TOKENS, MIN_FRAME_TOKENS, frame_pixel_budget
from .stream_options import check_number
from .video_loading import LoadedVideo, LoadOptions, load_pictures, load_video

# Keywords of a call that are used up when files are read, or that reading sets.
_LOADING = frozenset(
    {"fps", "max_frames", "num_frames", "min_pixels", "max_pixels", "size"}
    | {"do_resize", "do_sample_frames", "video_metadata"}
)
MAX_ASPECT_RATIO = 200  # the limit of Qwen2-VL's resizing


def is_image_file(settings: dict) -> bool:
    """Return whether a video processor's settings come from a file for still images."""
    return "image_processor_type" in settings and "video_processor_type" not in settings


class LiveCCVideoProcessor(Qwen2VLVideoProcessor):
    """Qwen2-VL's video processor with LiveCC's limits of 100 to 768 tokens per frame pair, for all backbones.

    Resizing is bicubic with antialiasing on uint8, as in LiveCC's training. Pixel limits are per frame.

    Args:
        **kwargs: as in the base class. Default limits, mean and standard deviation are those of the backbone with this
            `patch_size` (14: Qwen2-VL and Qwen2.5-VL, 16: Qwen3-VL).

    Attributes:
        load_file: reads a video file, with the signature of `load_video`; can be replaced by another reader.

    Raises:
        ValueError: if no backbone has this patch size.
    """

    # Limits are per frame only; `clip_limits` adds the token budget of a clip.
    cap_pixels_per_frame = False
    load_file: Callable[..., LoadedVideo] = staticmethod(load_video)

    def __init__(self, **kwargs):
        backbone = find_backbone(backbone_of_patches(kwargs.get("patch_size")))
        # A copy: the base class writes `min_pixels` and `max_pixels` into it.
        kwargs["size"] = dict(kwargs.get("size") or frame_limits(backbone))
        for name, value in (("image_mean", backbone.image_mean), ("image_std", backbone.image_std)):
            kwargs[name] = list(value) if kwargs.get(name) is None else kwargs[name]
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, video_processor_dict: dict, **kwargs):
        """As the base class, but ignore pixel limits that are for still images or for whole videos (Qwen3-VL).

        Older checkpoints have only `preprocessor_config.json`, whose 12.8 megapixel limit is meant for images.
        """
        if is_image_file(video_processor_dict) or counts_whole_videos(video_processor_dict):
            limits = ("size", "min_pixels", "max_pixels")
            video_processor_dict = {k: v for k, v in video_processor_dict.items() if k not in limits}
        return super().from_dict(video_processor_dict, **kwargs)

    def to_dict(self) -> dict:
        """As the base class, without `load_file`, which is not saved."""
        return {name: value for name, value in super().to_dict().items() if name != "load_file"}

    def frames_to_patches(self, frames: torch.Tensor, *limits, **options) -> tuple[torch.Tensor, torch.Tensor]:
        """Convert the frames of one video or turn to the vision tower's input, as a processor call does.

        Arguments and errors as :meth:`resized`.

        Returns:
            float32 patches (t * h * w, 3 * 2 * `patch_size`²), and the grid (1, 3) of t, h, w in patches.
        """
        frames = self.resized(frames, *limits, **options)
        return self.cut(frames[None])[0], torch.tensor([self.grid(frames)])

    @property
    def factor(self) -> int:
        """Side of a vision token in pixels (28; Qwen3-VL: 32); the sides of resized frames are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def pixels_per_token(self) -> int:
        """Pixels of a frame per token."""
        return self.factor**2

    def cut(self, videos: torch.Tensor) -> torch.Tensor:
        """Normalise videos and cut them into patches, on their device.

        Args:
            videos: uint8 (videos, T, 3, H, W); H and W are multiples of `factor`.

        Returns:
            float32 (videos, t * h * w, 3 * 2 * `patch_size`²).
        """
        frames = self.rescale_and_normalize(
            videos, self.do_rescale, self.rescale_factor, self.do_normalize, self.image_mean, self.image_std
        )
        return self.patchify(frames, self.patch_size, self.merge_size, self.temporal_patch_size)[0]

    def grid(self, frames: torch.Tensor) -> tuple[int, int, int]:
        """Return (t, h, w) in patches for frames (T, 3, H, W); an odd T is padded by one frame."""
        n_frames, _, height, width = frames.shape
        return -(-n_frames // self.temporal_patch_size), height // self.patch_size, width // self.patch_size

    def resized(
        self,
        frames: torch.Tensor,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        do_resize: bool = True,
    ) -> torch.Tensor:
        """Resize frames to within the pixel limits, with sides that are multiples of `factor`.

        Args:
            frames: uint8 (T, 3, H, W).
            min_pixels: minimum pixels of a resized frame, default `size["shortest_edge"]`.
            max_pixels: maximum pixels of a resized frame, default `size["longest_edge"]`; overrides the default
                `min_pixels`.
            do_resize: `False` to return the frames unchanged; their sides must be multiples of `factor`.

        Returns:
            uint8 (T, 3, H, W); H and W are multiples of `factor`.

        Raises:
            ValueError: if the limits contradict each other, or with `do_resize=False` a side is not such a multiple.
        """
        if not do_resize:
            self.check_unresized(frames)
            return frames
        size = resize_limits(self, min_pixels, max_pixels)
        return self.resize(frames[None], size=size, resample=self.resample, factor=self.factor)[0]

    def preprocess(self, videos: VideoInput, **kwargs: Any) -> BatchFeature:
        """As the base class, but read files with `load_file`: 2 frames per second, within a clip's token budget.

        The base class needs torchcodec for files, and takes all of their frames.

        Args:
            videos: frames of videos, paths of video files, or one list of image paths per video.
            **kwargs: as in the base class. For files, `fps`, `num_frames` and `max_frames` select the frames (default:
                2 per second, at most 480), and `size` (or `min_pixels`, `max_pixels`) overrides the budget.
        """
        listed, options = make_batched_videos(videos), self._load_options(kwargs)
        if not any(map(_is_file, listed)):
            if kwargs.get("video_metadata") is None and kwargs.get("do_sample_frames") is None:
                kwargs["do_sample_frames"] = False  # their rate is unknown; Qwen3-VL's published settings would sample
            return super().preprocess(videos, **kwargs)
        loaded = [self._load(video, options) for video in listed]
        metadata = [video.metadata for video in loaded]
        kwargs = {name: value for name, value in kwargs.items() if name not in _LOADING}
        own = {"do_resize": False, "do_sample_frames": False, "video_metadata": metadata}
        return super().preprocess([video.frames for video in loaded], **kwargs, **own)

    def _load_options(self, kwargs: dict) -> LoadOptions:
        """Return the options in the keywords of a call.

        Raises:
            ValueError: if one is out of range, also for frames, or the pixel limits contradict each other.
        """
        given = {name: kwargs.get(name) for name in ("fps", "max_frames", "num_frames", "min_pixels", "max_pixels")}
        size, do_resize = kwargs.get("size") or {}, kwargs.get("do_resize")
        for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            given[name] = size.get(edge) if given[name] is None else given[name]
        resize_limits(self, given["min_pixels"], given["max_pixels"])
        return LoadOptions(do_resize=self.do_resize if do_resize is None else do_resize, **given)

    def _load(self, video: Any, options: LoadOptions) -> LoadedVideo:
        if isinstance(video, str):
            return self.load_file(video, self, options)
        if _is_file(video):
            return load_pictures(video, self, options)
        frames = as_tensor(video)  # in one call with files
        self.check_frames(frames, options.do_resize)
        resized = self.resized(frames, options.min_pixels, options.max_pixels, options.do_resize)
        return LoadedVideo(resized, [n / (options.fps or FRAMES_PER_SECOND) for n in range(len(frames))])

    def _preprocess(self, videos: Sequence[torch.Tensor], **kwargs: Any) -> BatchFeature:
        """As the base class, with a clear error if `do_resize=False` and a frame cannot be cut into patches."""
        for frames in () if kwargs.get("do_resize", True) else videos:
            self.check_unresized(frames)
        return super()._preprocess(videos, **kwargs)

    def clip_limits(self, n_frames: int, min_pixels: int | None = None, max_pixels: int | None = None) -> SizeDict:
        """Return the pixel limits of a frame in a clip: the given ones, else its share of the clip's token budget.

        Args:
            n_frames: frames of the clip, which share the budget (`grammar.frame_pixel_budget`).
            min_pixels, max_pixels: minimum and maximum pixels of a frame; override the budget.

        Raises:
            ValueError: if the limits contradict each other.
        """
        if max_pixels is None:
            own = resize_limits(self)
            share = min(frame_pixel_budget(n_frames, self.pixels_per_token), own.longest_edge)
            max_pixels = max(share, own.shortest_edge, min_pixels or 0)
        return resize_limits(self, min_pixels, max_pixels)

    def check_frames(self, frames: torch.Tensor, do_resize: bool = True) -> None:
        """Raise `ValueError` if `frames` are not valid input of :meth:`resized`."""
        if not isinstance(frames, torch.Tensor):
            raise ValueError(f"frames are of type {type(frames).__name__}: expected {EXPECTED}")
        if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape[2:]:
            raise ValueError(f"frames have shape {tuple(frames.shape)}: expected (T, 3, H, W)")
        if frames.dtype != torch.uint8:
            raise ValueError(f"frames are {frames.dtype}: expected torch.uint8 with values 0 to 255")
        height, width = frames.shape[2:]
        if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise ValueError(
                f"frames are {width}x{height} pixels: expected sides with a ratio of at most {MAX_ASPECT_RATIO}; crop "
                "them"
            )
        if not do_resize:
            self.check_unresized(frames)

    def check_unresized(self, frames: torch.Tensor) -> None:
        """Raise `ValueError` if frames (T, 3, H, W) cannot be cut into patches without resizing."""
        factor = self.factor
        if any(side % factor for side in frames.shape[-2:]):
            raise ValueError(
                f"frames are {frames.shape[-1]}x{frames.shape[-2]} pixels, but with do_resize=False both sides must be "
                f"multiples of {factor}: resize them first, or leave do_resize on"
            )


def frame_limits(backbone: Backbone) -> dict[str, int]:
    """Return a backbone's default pixel limits per frame, as the `size` of a video processor."""
    per_token = backbone.pixels_per_token
    return {"shortest_edge": MIN_FRAME_TOKENS * per_token, "longest_edge": MAX_FRAME_TOKENS * per_token}


def counts_whole_videos(settings: dict) -> bool:
    """Return whether a video processor's settings limit whole videos instead of frames (Qwen3-VL's published ones)."""
    if settings.get("video_processor_type") == LiveCCVideoProcessor.__name__ or settings.get("patch_size") is None:
        return False
    return find_backbone(backbone_of_patches(settings["patch_size"])).limits_whole_videos


def _is_file(video: object) -> bool:
    """Return whether a video is a path, or a list of image paths."""
    if isinstance(video, list | tuple):
        return bool(video) and all(isinstance(item, str) for item in video)
    return isinstance(video, str)


def resize_limits(
    video_processor: Qwen2VLVideoProcessor, min_pixels: int | None = None, max_pixels: int | None = None
) -> SizeDict:
    """Return the pixel limits of a frame: the given ones, else the processor's.

    Raises:
        ValueError: if a limit is not positive, `max_pixels` is less than one token, or `min_pixels` is above it.
    """
    for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
        if value is not None:
            check_number(name, value, above=0)
    least = (video_processor.patch_size * video_processor.merge_size) ** 2
    if max_pixels is not None and max_pixels < least:
        raise ValueError(f"max_pixels={max_pixels} is less than a token: expected at least {least} pixels per frame")
    if min_pixels is not None and max_pixels is not None and min_pixels > max_pixels:
        raise ValueError(f"min_pixels={min_pixels} is above max_pixels={max_pixels}: lower one or raise the other")
    low = min_pixels or video_processor.size["shortest_edge"]
    high = max_pixels or video_processor.size["longest_edge"]
    if min_pixels is not None:
        high = max(high, low)
    else:
        low = min(low, high)
    return SizeDict(shortest_edge=low, longest_edge=high)


LiveCCVideoProcessor.register_for_auto_class()
