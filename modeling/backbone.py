"""What differs between the vision-language models that LiveCC runs on.

A backbone is one file, `backbone_NAME.py`, with one `BACKBONE`: an instance of a subclass of `Backbone`, whose defaults
are Qwen2-VL's. The rest of the package calls these methods and never compares backbone names; `backbones.py` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .grammar import SYSTEM_PROMPT


class Backbone:
    """One family of vision-language models.

    Attributes:
        name: the `backbone` of a config and of a processor, and the `model_type` of published checkpoints.
        patch_size: side of a patch in pixels.
        merge_size: patches along each side of a vision token.
        image_mean, image_std: pixel normalisation, one value per channel.
        position_schemes: the entries of `POSITION_SCHEMES` that its weights can run with.
        system_prompt: opens a conversation; `None` if its chat template adds no system prompt.
        can_forget: whether a span of tokens can be evicted from the context. It cannot with recurrent layers, whose
            state sums up all tokens.
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
    can_forget: ClassVar[bool] = True
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
        """Return the text before each vision block of a stream's turn, in order.

        A block is a run of vision tokens between `<|vision_start|>` and `<|vision_end|>`; all blocks of a video have
        the same number of patches. A label is evicted from the context together with its block.

        Args:
            n_patches: temporal patches (frame pairs).
            start_s: time of the first frame, in seconds from the stream's start.
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

    def shift_frequencies(self, language_model: Any) -> Any:
        """Return the rotary embedding's frequencies, (head size / 2,), by which cached keys are shifted.

        Positions shift alike on all three axes, so it does not matter which axis a frequency belongs to.
        """
        return language_model.rotary_emb.inv_freq

    def join_vision(self, text: str) -> str:
        """Rewrite a rendered chat template into the form in which a processor call inserts the videos."""
        return text

    def video_text(self, video_token: str, grid_thw: Sequence[int], times_s: Sequence[float]) -> str:
        """Return the text that replaces one `video_token` in a question or conversation.

        Args:
            video_token: placeholder of one vision token.
            grid_thw: (t, h, w) in patches.
            times_s: time of each frame in seconds, counted from the time that players show as 0:00, also in a part of
                a video.
        """
        t, h, w = (int(n) for n in grid_thw)
        return video_token * (t * h * w // self.merge_size**2)

    def video_inputs(self, patches_s: Sequence[float]) -> dict[str, list[float]]:
        """Return the model inputs for videos in addition to patches and grids.

        Args:
            patches_s: seconds from one frame pair to the next, one value per video.
        """
        return {}
