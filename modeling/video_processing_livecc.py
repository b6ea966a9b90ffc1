"""Frames to patches: the pixel limits, resizing and normalisation of LiveCC."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .configuration_livecc import LiveCCConfig  # noqa: F401, checks transformers' version first # isort: skip
from transformers import Qwen2VLVideoProcessor
from transformers.image_utils import SizeDict
from transformers.video_utils import make_batched_videos

from .backbone import Backbone
from .backbones import backbone_of_patches, find_backbone
from .frames import EXPECTED, as_tensor
from .grammar import FRAMES_PER_SECOND, MAX_FRAME_TOKENS, MIN_FRAME_TOKENS, PIXELS_PER_TOKEN, frame_pixel_budget
from .video_loading import LoadedVideo, LoadOptions, load_pictures, load_video

MAX_ASPECT_RATIO = 200  # beyond it Qwen2-VL's resizing refuses


def is_image_file(settings: dict) -> bool:
    """Return whether settings of a video processor were read from a file for still images."""
    return "image_processor_type" in settings and "video_processor_type" not in settings


class LiveCCVideoProcessor(Qwen2VLVideoProcessor):
    """Qwen2-VL's video processor with LiveCC's limits: 100 to 768 tokens a frame pair, for the patches of any backbone.

    Resizing is bicubic with antialiasing on uint8, as LiveCC was trained. Limits are pixels of a frame.

    Args:
        **kwargs: as in the base class. Limits, mean and deviation that are not given are those of the backbone that has
            this `patch_size` (14: Qwen2-VL and Qwen2.5-VL, 16: Qwen3-VL).

    Attributes:
        load_file: reads a file, as `load_video` does; a better reader may take its place.

    Raises:
        ValueError: if no backbone has patches of this size.
    """

    size = {  # noqa: RUF012 (read by the base class, which copies it)
        "shortest_edge": MIN_FRAME_TOKENS * PIXELS_PER_TOKEN,
        "longest_edge": MAX_FRAME_TOKENS * PIXELS_PER_TOKEN,
    }
    # Per-frame limits only: the budget of a whole clip is the caller's (grammar.frame_pixel_budget).
    cap_pixels_per_frame = False
    load_file: Callable[..., LoadedVideo] = staticmethod(load_video)

    def __init__(self, **kwargs):
        backbone = find_backbone(backbone_of_patches(kwargs.get("patch_size")))
        # A copy: transformers before 5.23 writes given limits into the class's own dictionary.
        kwargs["size"] = dict(kwargs.get("size") or frame_limits(backbone))
        for name, value in (("image_mean", backbone.image_mean), ("image_std", backbone.image_std)):
            kwargs[name] = list(value) if kwargs.get(name) is None else kwargs[name]
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, video_processor_dict: dict, **kwargs):
        """As the base class; limits of still images, or of whole videos (Qwen3-VL's), are not taken for a frame's.

        Checkpoints published before video processors existed carry `preprocessor_config.json` alone, whose
        12.8 megapixel limit is meant for still images.
        """
        if is_image_file(video_processor_dict) or counts_whole_videos(video_processor_dict):
            limits = ("size", "min_pixels", "max_pixels")
            video_processor_dict = {k: v for k, v in video_processor_dict.items() if k not in limits}
        return super().from_dict(video_processor_dict, **kwargs)

    def to_dict(self) -> dict:
        """As the base class; which reader reads files is not saved."""
        return {name: value for name, value in super().to_dict().items() if name != "load_file"}

    def frames_to_patches(self, frames: torch.Tensor, *limits, **options) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn the frames of one video (or of one turn) into the vision tower's input.

        The same steps as a call of the processor, without its bookkeeping; arguments and errors as :meth:`resized`.

        Returns:
            patches of shape (t * h * w, 3 * 2 * `patch_size`²) in float32, and the grid (1, 3) of t, h, w in patches.
        """
        frames = self.resized(frames, *limits, **options)
        return self.cut(frames[None])[0], torch.tensor([self.grid(frames)])

    @property
    def factor(self) -> int:
        """Pixels along a token's side, of which a frame's sides are multiples: 28, or 32 with Qwen3-VL."""
        return self.patch_size * self.merge_size

    @property
    def pixels_per_token(self) -> int:
        """Pixels of a frame for each token."""
        return self.factor**2

    def cut(self, videos: torch.Tensor) -> torch.Tensor:
        """Return the patches of some videos, on their device.

        Args:
            videos: uint8 (videos, T, 3, H, W), sides multiples of `factor`.

        Returns:
            (videos, t * h * w, 3 * 2 * `patch_size`²).
        """
        frames = self.rescale_and_normalize(
            videos, self.do_rescale, self.rescale_factor, self.do_normalize, self.image_mean, self.image_std
        )
        return self.patchify(frames, self.patch_size, self.merge_size, self.temporal_patch_size)[0]

    def grid(self, frames: torch.Tensor) -> tuple[int, int, int]:
        """Return how many patches frames (T, 3, H, W) make in time, height and width; an odd T counts one more."""
        n_frames, _, height, width = frames.shape
        return -(-n_frames // self.temporal_patch_size), height // self.patch_size, width // self.patch_size

    def resized(
        self,
        frames: torch.Tensor,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        do_resize: bool = True,
    ) -> torch.Tensor:
        """Return frames in the size in which they are cut into patches.

        Args:
            frames: uint8 (T, 3, H, W).
            min_pixels: fewest pixels of a resized frame, default `size["shortest_edge"]`.
            max_pixels: most pixels of a resized frame, default `size["longest_edge"]`; it wins over the default
                `min_pixels`.
            do_resize: `False` for frames whose sides are multiples of `factor` already.

        Returns:
            uint8 (T, 3, H, W), H and W multiples of `factor`; frames that have that size already as they are.

        Raises:
            ValueError: if the limits contradict each other, or unresized frames have other sides.
        """
        if not do_resize:
            self.check_unresized(frames)
            return frames
        size = resize_limits(self, min_pixels, max_pixels)
        return self.resize(frames[None], size=size, resample=self.resample, factor=self.factor)[0]

    def preprocess(self, videos, **kwargs):
        """As the base class, but that files are read by LiveCC's reader, at 2 frames a second, within a clip's budget.

        The base class needs torchcodec for files, and takes all of their frames.

        Args:
            videos: frames of videos, or paths of files (also lists of picture files, one list a video).
            **kwargs: as in the base class. Of files, `fps`, `num_frames` and `max_frames` say which frames are taken
                (by default 2 a second, at most 480); `size` (or `min_pixels`, `max_pixels`) wins over the budget.
        """
        listed = make_batched_videos(videos)
        if not any(map(_is_file, listed)):
            if kwargs.get("video_metadata") is None and kwargs.get("do_sample_frames") is None:
                kwargs["do_sample_frames"] = False  # nothing says their rate; Qwen3-VL's published settings sample
            return super().preprocess(videos, **kwargs)
        size, do_resize = kwargs.pop("size", None) or {}, kwargs.pop("do_resize", None)
        chosen = {name: kwargs.pop(name, None) for name in ("fps", "max_frames", "num_frames")}
        options = LoadOptions(
            min_pixels=kwargs.pop("min_pixels", None) or size.get("shortest_edge"),
            max_pixels=kwargs.pop("max_pixels", None) or size.get("longest_edge"),
            do_resize=self.do_resize if do_resize is None else do_resize,
            **chosen,
        )
        loaded = [self._loaded(video, options) for video in listed]
        metadata = [video.metadata for video in loaded]
        own = {"do_resize": False, "do_sample_frames": False, "video_metadata": metadata}
        return super().preprocess([video.frames for video in loaded], **(kwargs | own))

    def _loaded(self, video, options: LoadOptions) -> LoadedVideo:
        if isinstance(video, str):
            return self.load_file(video, self, options)
        if _is_file(video):
            return load_pictures(video, self, options)
        frames = as_tensor(video)  # beside files
        self.check_frames(frames, options.do_resize)
        resized = self.resized(frames, options.min_pixels, options.max_pixels, options.do_resize)
        return LoadedVideo(resized, [n / (options.fps or FRAMES_PER_SECOND) for n in range(len(frames))])

    def _preprocess(self, videos, **kwargs):
        """As the base class, with a clear error for frames that cannot be cut and are not to be resized."""
        for frames in () if kwargs.get("do_resize", True) else videos:
            self.check_unresized(frames)
        return super()._preprocess(videos, **kwargs)

    def clip_limits(self, n_frames: int, min_pixels: int | None = None, max_pixels: int | None = None) -> SizeDict:
        """Return the pixel limits of a frame in a clip: what is given, else the clip's share of the token budget.

        Args:
            n_frames: frames of the clip, which share the budget (`grammar.frame_pixel_budget`).
            min_pixels, max_pixels: fewest and most pixels of a frame; where given they win.

        Raises:
            ValueError: if the limits contradict each other.
        """
        if max_pixels is None:
            own = resize_limits(self)
            share = min(frame_pixel_budget(n_frames, self.pixels_per_token), own.longest_edge)
            max_pixels = max(share, own.shortest_edge, min_pixels or 0)
        return resize_limits(self, min_pixels, max_pixels)

    def check_frames(self, frames: torch.Tensor, do_resize: bool = True) -> None:
        """Raise `ValueError` if `frames` is not what :meth:`resized` takes."""
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
        """Raise `ValueError` if frames (T, 3, H, W) cannot be cut into patches as they are."""
        factor = self.factor
        if any(side % factor for side in frames.shape[-2:]):
            raise ValueError(
                f"frames are {frames.shape[-1]}x{frames.shape[-2]} pixels, but with do_resize=False both sides must be "
                f"multiples of {factor}: resize them first, or leave do_resize on"
            )


def frame_limits(backbone: Backbone) -> dict[str, int]:
    """Return a backbone's default limits of a frame in pixels, as a video processor's `size`."""
    per_token = backbone.pixels_per_token
    return {"shortest_edge": MIN_FRAME_TOKENS * per_token, "longest_edge": MAX_FRAME_TOKENS * per_token}


def counts_whole_videos(settings: dict) -> bool:
    """Return whether a video processor's settings limit the pixels of whole videos, as Qwen3-VL's published ones do."""
    if settings.get("video_processor_type") == LiveCCVideoProcessor.__name__ or settings.get("patch_size") is None:
        return False
    return find_backbone(backbone_of_patches(settings["patch_size"])).limits_whole_videos


def _is_file(video) -> bool:
    """Return whether a video is the path of a file, or a list of those of pictures."""
    if isinstance(video, list | tuple):
        return bool(video) and all(isinstance(item, str) for item in video)
    return isinstance(video, str)


def resize_limits(
    video_processor: Qwen2VLVideoProcessor, min_pixels: int | None = None, max_pixels: int | None = None
) -> SizeDict:
    """Return the pixel limits of a frame: what is given, else the processor's.

    Raises:
        ValueError: if a limit is not positive or leaves no token, or both are given and the lower is above the upper.
    """
    for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and (not is_number or not value > 0):
            raise ValueError(f"{name}={value!r:.80}: expected a positive number of pixels a frame")
    least = (video_processor.patch_size * video_processor.merge_size) ** 2
    if max_pixels is not None and max_pixels < least:
        raise ValueError(f"max_pixels={max_pixels} is less than a token: expected at least {least} pixels a frame")
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
