"""A training sample: model inputs and counts, the same for every kind of data."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from livecc_hf.modeling.grammar import MAX_FRAMES

IGNORE_INDEX = -100  # the label of a token that is not supervised


@dataclass(frozen=True)
class EncodeOptions:
    """Options for encoding clips and conversations as samples.

    Args:
        keep_trailing_silence: keep silent turns at a clip's end.
        use_context: give the model the title / the previous text of a clip.
        min_pixels: fewest pixels of a frame; the processor's limit if None.
        max_pixels: most pixels of a frame; the clip's share of the token budget if None.
        max_frames: most frames of a clip; later ones are cut, with their words.
        max_tokens: most tokens of a sample; a clip loses turns at its end until it fits. None: no limit.
    """

    keep_trailing_silence: bool = False
    use_context: bool = True
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_frames: int = MAX_FRAMES
    max_tokens: int | None = None


@dataclass
class Sample:
    """A training sample.

    Attributes:
        model_inputs: `input_ids`, `labels`, `mm_token_type_ids` of shape (L,); where there is video,
            `pixel_values_videos` (patches, values) and `video_grid_thw` (videos, 3); where there are images,
            `pixel_values` (patches, values) and `image_grid_thw` (images, 3).
        n_words: supervised words.
        n_cut_words: words left out because they end after the last kept frame.
        n_cut_turns: turns left out by the frame or token limit.
        n_silent_turns: silent turns dropped at the end.
    """

    model_inputs: dict[str, torch.Tensor] = field(repr=False)
    n_words: int = 0
    n_cut_words: int = 0
    n_cut_turns: int = 0
    n_silent_turns: int = 0

    @property
    def n_tokens(self) -> int:
        """Length of the sequence."""
        return len(self.model_inputs["input_ids"])
