"""Conversations with pictures and videos, and what holds for every sample of one."""

import numpy as np
import torch
from PIL import Image

from livecc_hf.data.formats.chat import parse_chat
from livecc_hf.data.samples.chat import count_chat_tokens, encode_chat
from livecc_hf.data.samples.sample import IGNORE_INDEX, EncodeOptions

OPTIONS = EncodeOptions()
SMALL = EncodeOptions(min_pixels=28 * 28, max_pixels=4 * 28 * 28)


def picture(width_px=120, height_px=80, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chat(*parts, answer="A red ball rests."):
    parts = [{"text": part} if isinstance(part, str) else part for part in parts]
    return parse_chat([{"role": "user", "content": parts}, {"role": "assistant", "content": answer}], "x:1")


def encoded(conversation, processor, options=OPTIONS, root=None):
    """Encode a conversation, and check what holds for every sample."""
    sample = encode_chat(conversation, processor, options, root)
    inputs = sample.model_inputs
    assert count_chat_tokens(conversation, processor, options, root) == sample.n_tokens
    shapes = {len(inputs[name]) for name in ("input_ids", "labels", "mm_token_type_ids")}
    assert shapes == {sample.n_tokens}
    at = inputs["labels"] != IGNORE_INDEX
    assert torch.equal(inputs["labels"][at], inputs["input_ids"][at])
    assert not inputs["mm_token_type_ids"][at].any()
    for kind, pixels, grid in ((1, "pixel_values", "image_grid_thw"), (2, "pixel_values_videos", "video_grid_thw")):
        n_tokens = int((inputs["mm_token_type_ids"] == kind).sum())
        assert (grid in inputs) == (pixels in inputs) == (n_tokens > 0)
        if n_tokens:
            assert inputs[pixels].dtype == torch.float32
            assert inputs[pixels].shape == (n_tokens * 4, 1176)
            assert inputs[grid].prod(1).sum() == n_tokens * 4
    return sample


def decoded(path, n_frames=8):
    """Return evenly spaced frames from 0 to 39 of a file with 10 frames a second."""
    from livecc_hf.video.reader import iter_frames

    return torch.stack([item.frame for item in iter_frames(path, fps=(n_frames - 1) / 3.9)])
