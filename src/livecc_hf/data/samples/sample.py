"""The training sample, with model inputs and counts, and the options for encoding it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from livecc_hf.modeling.grammar import MAX_FRAMES, TURN_FRAMES
from livecc_hf.modeling.stream_options import check_number

IGNORE_INDEX = -100  # label of tokens that are not supervised


@dataclass(frozen=True)
class EncodeOptions:
    """Options for encoding clips and conversations as samples.

    Args:
        keep_trailing_silence: keep silent turns at the end of a clip.
        use_context: include the title or the previous text of a clip in its prompt.
        min_pixels: lower limit for the pixels of a frame; `None` for the processor's limit.
        max_pixels: upper limit for the pixels of a frame; `None` for the clip's share of the token budget.
        max_frames: largest number of frames in a clip; later frames and their words are cut.
        max_tokens: largest number of tokens in a sample; clips lose turns at their end until they fit. `None` for no
            limit.

    Raises:
        ValueError: if a limit is out of range, or the pixel limits contradict each other.
    """

    keep_trailing_silence: bool = False
    use_context: bool = True
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_frames: int = MAX_FRAMES
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels", "max_tokens"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, from_=1, kind=int)
        check_number("max_frames", self.max_frames, from_=TURN_FRAMES, up_to=MAX_FRAMES, kind=int)
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}: lower one or raise the other"
            )


@dataclass
class Sample:
    """A training sample.

    Attributes:
        model_inputs: `input_ids`, `labels`, `mm_token_type_ids` (L,); with videos, `pixel_values_videos` (patches,
            values) and `video_grid_thw` (videos, 3); with images, `pixel_values` (patches, values) and `image_grid_thw`
            (images, 3).
        n_words: number of supervised words.
        n_cut_words: number of words left out, because they end before the clip or after its last kept frame.
        n_cut_turns: number of turns left out by the frame or token limit.
        n_silent_turns: number of silent turns dropped at the end.
        has_placeholder: whether its video is only the placeholder's.
    """

    model_inputs: dict[str, torch.Tensor] = field(repr=False)
    n_words: int = 0
    n_cut_words: int = 0
    n_cut_turns: int = 0
    n_silent_turns: int = 0
    has_placeholder: bool = False

    @property
    def n_steps_shown(self) -> int:
        """Number of temporal steps of its videos (frame pairs), and of its images; without the placeholder's."""
        grids = [value for name, value in self.model_inputs.items() if name.endswith("_grid_thw")]
        return 0 if self.has_placeholder else sum(int(grid[:, 0].sum()) for grid in grids)

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.model_inputs["input_ids"])
