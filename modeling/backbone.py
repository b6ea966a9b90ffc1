"""What differs between the vision-language models that LiveCC runs on.

A backbone is one file, `backbone_NAME.py`, with one `BACKBONE`: a `Backbone` whose defaults are Qwen2-VL's. Everything
else in this package asks it and never looks at its name; `backbones.py` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .grammar import SYSTEM_PROMPT

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


class Backbone:
    """One family of vision-language models.

    What needs no method is here too: all three run their vision tower in their own body's forward pass, which also
    adds DeepStack features to the layers they belong to, so a prefill gives the body tokens, patches and grids.

    Attributes:
        name: the `backbone` of a config and of a processor, and the `model_type` of published checkpoints.
        patch_size: pixels along a patch's side.
        merge_size: patches along a token's side.
        image_mean, image_std: normalisation of pixels, for each channel.
        position_schemes: those of `POSITION_SCHEMES` that its weights can be run with.
        system_prompt: what opens a conversation; `None`: nothing, as in the chat template it was trained with.
        can_forget: whether a span of tokens can leave the context. False for recurrent layers: they sum all tokens up
            in one state, which cannot be told from it again.
        limits_whole_videos: whether its published video processors count the pixels of a whole video where LiveCC's
            count those of a frame.
        needs_video_metadata: whether a processor's call needs the frame rate of videos.
        renames_weights: whether published checkpoints name weights otherwise than the modules do.
    """

    name: ClassVar[str]
    patch_size: ClassVar[int] = 14
    merge_size: ClassVar[int] = 2
    image_mean: ClassVar[Sequence[float]] = CLIP_MEAN
    image_std: ClassVar[Sequence[float]] = CLIP_STD
    position_schemes: ClassVar[Sequence[str]] = ("mrope",)
    system_prompt: ClassVar[str | None] = SYSTEM_PROMPT
    can_forget: ClassVar[bool] = True
    limits_whole_videos: ClassVar[bool] = False
    needs_video_metadata: ClassVar[bool] = False
    renames_weights: ClassVar[bool] = False

    @property
    def factor(self) -> int:
        """Pixels along a token's side: what a frame's sides are multiples of."""
        return self.patch_size * self.merge_size

    @property
    def pixels_per_token(self) -> int:
        """Pixels of a frame that become one token (with those of the next frame)."""
        return self.factor**2

    def config_class(self) -> type:
        """Return transformers' config class, whose `text_config` and `vision_config` a `LiveCCConfig` holds."""
        raise NotImplementedError

    def model_classes(self) -> tuple[type, type]:
        """Return transformers' classes: with the head (`...ForConditionalGeneration`), and its body (`...Model`)."""
        raise NotImplementedError

    def vision_labels(self, n_patches: int, start_s: float = 0.0, patch_s: float = 1.0) -> list[str]:
        """Return the text before each vision block that consecutive frames become, in order.

        A block is a run of vision tokens between `<|vision_start|>` and `<|vision_end|>`; all have as many patches. A
        label belongs to its block, and leaves the context with it.

        Args:
            n_patches: temporal patches (frame pairs).
            start_s: time of the first frame, in seconds from the stream's or the video's start.
            patch_s: seconds from one frame pair to the next.
        """
        return [""]

    def block_grids(self, grid_thw: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return the grids (t, h, w) in patches of the blocks that a video of grid (t, h, w) becomes."""
        t, h, w = (int(n) for n in grid_thw)
        n_blocks = len(self.vision_labels(t))
        return [(t // n_blocks, h, w)] * n_blocks

    def temporal_step(self, vision_config: Any, patch_s: float = 1.0) -> float:
        """Return by how much the temporal position grows from one frame pair of a block to the next.

        Positions are cut to whole numbers after the multiplication.

        Args:
            vision_config: the model's.
            patch_s: seconds from one frame pair to the next; in LiveCC's grammar 1.
        """
        return 1

    def shift_frequencies(self, language_model: Any) -> Any:
        """Return the rotary embedding's frequencies, (head size / 2,), by which cached keys move to earlier positions.

        A key moves by the same distance on all three axes, so it does not matter which frequency is of which axis.
        """
        return language_model.rotary_emb.inv_freq

    def join_vision(self, text: str) -> str:
        """Return a text of the chat template, changed to what a processor's call can put videos into."""
        return text

    def video_text(self, video_token: str, grid_thw: Sequence[int], fps: float, frames_indices: Sequence[int]) -> str:
        """Return what stands for a video in a processor's call, instead of one `video_token`.

        Args:
            video_token: the placeholder of one vision token.
            grid_thw: (t, h, w) in patches.
            fps: frames for each second of the source.
            frames_indices: which of them the video's frames are.
        """
        t, h, w = (int(n) for n in grid_thw)
        return video_token * (t * h * w // self.merge_size**2)

    def video_inputs(self, patches_s: Sequence[float]) -> dict[str, list[float]]:
        """Return what the model's body takes of videos beside patches and grids.

        Args:
            patches_s: seconds from one frame pair to the next, of each video.
        """
        return {}
