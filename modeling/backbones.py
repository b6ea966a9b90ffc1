"""The vision-language models that LiveCC runs on, and what differs between them.

Each backbone is a subclass of `Backbone`, whose defaults are Qwen2-VL's. The rest of the package calls these methods
and never compares backbone names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .grammar import FRAME_STEP_S, SYSTEM_PROMPT, VIDEO_PAD, VISION_END, VISION_START


class Backbone:
    """One family of vision-language models.

    Attributes:
        name: the `backbone` of a config and of a processor, and the `model_type` of published checkpoints.
        patch_size: side of a patch in pixels.
        merge_size: patches along each side of a vision token.
        image_mean, image_std: pixel normalisation, one value per channel.
        position_schemes: the entries of `POSITION_SCHEMES` that its weights can run with.
        system_prompt: opens a conversation; `None` if its chat template adds no system prompt.
        limits_whole_videos: whether the pixel limits of its published video processors are for a whole video; LiveCC's
            are for one frame.
        needs_video_metadata: whether its processor needs the frame rate of videos.
        renames_weights: whether weight names in published checkpoints differ from the module names.
    """

    name: ClassVar[str]
    patch_size: ClassVar[int] = 14
    merge_size: ClassVar[int] = 2
    image_mean: ClassVar[Sequence[float]] = [0.48145466, 0.4578275, 0.40821073]  # CLIP's
    image_std: ClassVar[Sequence[float]] = [0.26862954, 0.26130258, 0.27577711]
    position_schemes: ClassVar[Sequence[str]] = ("mrope",)
    system_prompt: ClassVar[str | None] = SYSTEM_PROMPT
    limits_whole_videos: ClassVar[bool] = False
    needs_video_metadata: ClassVar[bool] = False
    renames_weights: ClassVar[bool] = False

    @property
    def factor(self) -> int:
        """Side of a vision token in pixels; the sides of resized frames are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def pixels_per_token(self) -> int:
        """Pixels of a frame that share one token (with the same pixels of the other frame in the pair)."""
        return self.factor**2

    def config_class(self) -> type:
        """Return transformers' config class; a `LiveCCConfig` holds its `text_config` and `vision_config`."""
        from transformers import CONFIG_MAPPING

        return CONFIG_MAPPING[self.name]

    def model_classes(self) -> tuple[type, type]:
        """Return transformers' model classes: `...ForConditionalGeneration`, and `...Model` without the head."""
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING

        config_class = self.config_class()
        return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[config_class], MODEL_MAPPING[config_class]

    def vision_labels(self, n_patches: int, start_s: float = 0.0, patch_s: float = 1.0) -> list[str]:
        """Return the text before each vision block of consecutive frames, in order.

        A block is a run of vision tokens between `<|vision_start|>` and `<|vision_end|>`; all blocks of a video have
        the same number of patches. A label is evicted from the context together with its block.

        Args:
            n_patches: temporal patches (frame pairs).
            start_s: time of the first frame, in seconds from the start of the stream or video.
            patch_s: seconds from one frame pair to the next.
        """
        return [""]

    def block_grids(self, grid_thw: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return the (t, h, w) grids in patches of the blocks that a video of grid (t, h, w) is split into."""
        t, h, w = (int(n) for n in grid_thw)
        n_blocks = len(self.vision_labels(t))
        return [(t // n_blocks, h, w)] * n_blocks

    def temporal_step(self, vision_config: Any, patch_s: float = 1.0) -> float:
        """Return the step of the temporal position from one frame pair of a block to the next.

        A position is the integer part of pair number times step.

        Args:
            vision_config: the model's vision config.
            patch_s: seconds from one frame pair to the next; 1 in LiveCC's grammar.
        """
        return 1

    def join_vision(self, text: str) -> str:
        """Rewrite a rendered chat template into the form in which a processor call inserts the videos."""
        return text

    def video_text(self, video_token: str, grid_thw: Sequence[int], fps: float, frames_indices: Sequence[int]) -> str:
        """Return the text that a processor call puts in place of one `video_token`.

        Args:
            video_token: placeholder of one vision token.
            grid_thw: (t, h, w) in patches.
            fps: frames per second of the source.
            frames_indices: for each frame of the video, its index in the source.
        """
        t, h, w = (int(n) for n in grid_thw)
        return video_token * (t * h * w // self.merge_size**2)

    def video_inputs(self, patches_s: Sequence[float]) -> dict[str, list[float]]:
        """Return the model inputs for videos in addition to patches and grids.

        Args:
            patches_s: seconds from one frame pair to the next, one value per video.
        """
        return {}


class Qwen2VLBackbone(Backbone):
    """Qwen2-VL (arXiv 2409.12191), LiveCC's original backbone: a turn is one block, temporal positions grow by 1."""

    name: ClassVar[str] = "qwen2_vl"
    position_schemes: ClassVar[Sequence[str]] = ("mrope", "sequential", "reference")
    renames_weights: ClassVar[bool] = True


class Qwen25VLBackbone(Backbone):
    """Qwen2.5-VL (arXiv 2502.13923): like Qwen2-VL, but temporal positions grow by `tokens_per_second` per second."""

    name: ClassVar[str] = "qwen2_5_vl"
    needs_video_metadata: ClassVar[bool] = True
    renames_weights: ClassVar[bool] = True

    def temporal_step(self, vision_config: Any, patch_s: float = 1.0) -> float:
        """Return the step of the temporal position: `tokens_per_second` times the seconds of a pair."""
        return vision_config.tokens_per_second * float(patch_s)

    def video_inputs(self, patches_s: Sequence[float]) -> dict[str, list[float]]:
        """Return `second_per_grid_ts`, from which the model computes temporal positions."""
        return {"second_per_grid_ts": [float(patch_s) for patch_s in patches_s]}


class Qwen3VLBackbone(Backbone):
    """Qwen3-VL (arXiv 2511.21631): every frame pair is a vision block of its own, with its time as text before it.

    A turn starts with `Time=3.0-4.0s` as everywhere in LiveCC. Before each frame pair comes the time of the pair's
    middle, such as `<3.2 seconds>`: this backbone learned time from that text, not from temporal positions. Its
    published chat template writes a system message only if the conversation has one.
    """

    name: ClassVar[str] = "qwen3_vl"
    patch_size: ClassVar[int] = 16
    image_mean: ClassVar[Sequence[float]] = [0.5, 0.5, 0.5]
    image_std: ClassVar[Sequence[float]] = [0.5, 0.5, 0.5]
    system_prompt: ClassVar[str | None] = None
    limits_whole_videos: ClassVar[bool] = True
    needs_video_metadata: ClassVar[bool] = True

    def vision_labels(self, n_patches: int, start_s: float = 0.0, patch_s: float = 1.0) -> list[str]:
        """Return the time of the middle of each frame pair; each pair is a block of its own."""
        middle_s = start_s + FRAME_STEP_S / 2 * patch_s
        return [_time_text(middle_s + n * patch_s) for n in range(n_patches)]

    def join_vision(self, text: str) -> str:
        """Return the text with bare video placeholders: `video_text` adds the vision markers of each block."""
        return text.replace(f"{VISION_START}{VIDEO_PAD}{VISION_END}", VIDEO_PAD)

    def video_text(self, video_token: str, grid_thw: Sequence[int], fps: float, frames_indices: Sequence[int]) -> str:
        """Return the blocks of a video, each after its time."""
        t, h, w = (int(n) for n in grid_thw)
        times_s = [int(index) / fps for index in frames_indices]
        times_s += times_s[-1:] * (2 * t - len(times_s))
        pads = video_token * (h * w // self.merge_size**2)
        pairs = zip(times_s[: 2 * t : 2], times_s[1 : 2 * t : 2], strict=True)
        return "".join(f"{_time_text((a + b) / 2)}{VISION_START}{pads}{VISION_END}" for a, b in pairs)


def _time_text(time_s: float) -> str:
    return f"<{time_s:.1f} seconds>"


REGISTRY: dict[str, Backbone] = {one.name: one for one in (Qwen2VLBackbone(), Qwen25VLBackbone(), Qwen3VLBackbone())}
BACKBONES = tuple(REGISTRY)
DEFAULT_BACKBONE = Qwen2VLBackbone.name
# Model types (by prefix) that mix attention with recurrent layers.
_RECURRENT = ("qwen3_5", "qwen3_6", "qwen3_7", "qwen3_8", "qwen3_next", "qwen4")


def find_backbone(name: str) -> Backbone:
    """Return the backbone with this name.

    Raises:
        ValueError: if the name is unknown.
    """
    check_backbone(name)
    return REGISTRY[name]


def check_backbone(name: Any) -> None:
    """Raise `ValueError` if no backbone has this name; names are `model_type`s of transformers."""
    if name in BACKBONES:
        return
    expected = f"expected one of {', '.join(BACKBONES)}"
    if isinstance(name, str) and name.startswith(_RECURRENT):
        raise ValueError(
            f"{name} cannot be LiveCC's backbone: most of its layers are recurrent, and a span of video cannot be "
            f"evicted from a recurrent state, which endless streams need; {expected}"
        )
    raise ValueError(f"{name!r:.80} is not a LiveCC backbone: {expected}")


def backbone_of_values(values: Mapping[str, Any]) -> str:
    """Return the backbone's name from the values of a `config.json`, LiveCC's own or a published checkpoint's.

    Raises:
        ValueError: if it belongs to another family of models.
    """
    model_type = values.get("model_type")
    name = values.get("backbone") or (DEFAULT_BACKBONE if model_type in (None, "", "livecc") else model_type)
    check_backbone(name)
    return name


def backbone_of_patches(patch_size: int | None) -> str:
    """Return the first backbone with this patch size, for a video processor that does not name its backbone.

    Args:
        patch_size: side of a patch in pixels; `None` gives the default backbone.

    Raises:
        ValueError: if no backbone has it.
    """
    for backbone in REGISTRY.values():
        if patch_size in (None, backbone.patch_size):
            return backbone.name
    raise ValueError(
        f"the video processor's patch_size is {patch_size!r:.80}: expected one of "
        f"{sorted({backbone.patch_size for backbone in REGISTRY.values()})}, as the model's own processor has"
    )
