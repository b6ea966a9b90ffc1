"""Batches samples for the trainer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from livecc_hf.modeling.processing_livecc import IGNORE_INDEX


class CommentaryCollator:
    """Pads samples on the right to the longest of a batch.

    Args:
        pad_token_id: fills `input_ids`.
        pad_to_multiple_of: rounds the length up, which suits some accelerators.

    Raises:
        ValueError: if the pad token is missing.
    """

    def __init__(self, pad_token_id: int | None, pad_to_multiple_of: int | None = None):
        if pad_token_id is None:
            raise ValueError("the tokenizer has no pad token; set tokenizer.pad_token, e.g. to <|endoftext|>")
        self.pad_token_id = pad_token_id
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Returns the batch.

        Args:
            samples: each with `input_ids`, `labels`, `mm_token_type_ids` of shape (L,),
                `pixel_values_videos` (patches, features) and `video_grid_thw` (videos, 3).

        Returns:
            `input_ids`, `labels`, `mm_token_type_ids`, `attention_mask` of shape (batch, longest), and the
            samples' patches and grids one after the other.
        """
        length = max(len(sample["input_ids"]) for sample in samples)
        if self.pad_to_multiple_of:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(samples), length)
        batch = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "labels": torch.full(shape, IGNORE_INDEX),
            "mm_token_type_ids": torch.zeros(shape, dtype=torch.long),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
        }
        for row, sample in enumerate(samples):
            n_tokens = len(sample["input_ids"])
            for name in ("input_ids", "labels", "mm_token_type_ids"):
                batch[name][row, :n_tokens] = sample[name]
            batch["attention_mask"][row, :n_tokens] = 1
        for name in ("pixel_values_videos", "video_grid_thw"):
            batch[name] = torch.cat([sample[name] for sample in samples])
        return batch
