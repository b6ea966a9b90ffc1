"""A minimal video for samples without media, so that the vision tower runs in every batch.

Ranks that shard parameters or average gradients synchronise in every module of every step. If a batch has neither
images nor videos, its rank would not run the vision tower, and the others would wait for it indefinitely.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from livecc_hf.modeling.grammar import TURN_FRAMES, VISION_END, VISION_START
from livecc_hf.modeling.positions import TEXT_TYPE, VIDEO_TYPE
from livecc_hf.modeling.processing_livecc import StreamingProcessor

from .sample import IGNORE_INDEX, Sample

N_PLACEHOLDER_TOKENS = 3  # <|vision_start|>, one video token, <|vision_end|>


def placeholder_sample(processor: StreamingProcessor) -> Sample:
    """Return a sample of a black video of two frames (one vision token), not supervised.

    Args:
        processor: the model's processor.

    Returns:
        A sample of `N_PLACEHOLDER_TOKENS` tokens, with patches of shape (4, values).
    """
    video_processor = processor.video_processor
    side_px = video_processor.patch_size * video_processor.merge_size
    black = torch.zeros(TURN_FRAMES, 3, side_px, side_px, dtype=torch.uint8)
    patches, grid = video_processor.frames_to_patches(black, do_resize=False)
    start_id, end_id = processor.tokenizer.convert_tokens_to_ids([VISION_START, VISION_END])
    return Sample(
        {
            "input_ids": torch.tensor([start_id, processor.video_token_id, end_id]),
            "labels": torch.full((N_PLACEHOLDER_TOKENS,), IGNORE_INDEX),
            "mm_token_type_ids": torch.tensor([TEXT_TYPE, VIDEO_TYPE, TEXT_TYPE]),
            "pixel_values_videos": patches,
            "video_grid_thw": grid,
        },
        has_placeholder=True,
    )


def with_vision(sample: Sample, processor: StreamingProcessor) -> Sample:
    """Append the placeholder's video to a sample, unless it has an image or video.

    Since attention is causal, this does not change the result for the sample's own tokens.

    Args:
        sample: any sample; not changed in place.
        processor: the model's processor.

    Returns:
        A sample with at least one image or video; `N_PLACEHOLDER_TOKENS` longer if it had none.
    """
    inputs = sample.model_inputs
    if "video_grid_thw" in inputs or "image_grid_thw" in inputs:
        return sample
    tail = placeholder_sample(processor).model_inputs
    per_token = ("input_ids", "labels", "mm_token_type_ids")
    joined = {name: torch.cat([inputs[name], tail[name].to(inputs[name].dtype)]) for name in per_token}
    return replace(sample, model_inputs=tail | inputs | joined, has_placeholder=True)
