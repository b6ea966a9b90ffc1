"""Batches."""

import pytest
import torch

from livecc_hf.training.collator import IGNORE_INDEX, CommentaryCollator


def sample(n_tokens: int, n_videos: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.arange(1, n_tokens + 1),
        "labels": torch.arange(1, n_tokens + 1),
        "mm_token_type_ids": torch.full((n_tokens,), 2),
        "pixel_values_videos": torch.full((n_videos * 4, 6), float(n_tokens)),
        "video_grid_thw": torch.tensor([[1, 2, 2]] * n_videos),
    }


def test_pads_on_the_right_and_keeps_every_patch():
    batch = CommentaryCollator(pad_token_id=99)([sample(3, 1), sample(5, 2)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 99, 99], [1, 2, 3, 4, 5]]
    assert batch["labels"][0].tolist() == [1, 2, 3, IGNORE_INDEX, IGNORE_INDEX]
    assert batch["mm_token_type_ids"][0].tolist() == [2, 2, 2, 0, 0]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert batch["pixel_values_videos"].shape == (12, 6)
    assert batch["pixel_values_videos"][:, 0].tolist() == [3.0] * 4 + [5.0] * 8
    assert batch["video_grid_thw"].shape == (3, 3)


def test_rounds_the_length_up():
    batch = CommentaryCollator(0, pad_to_multiple_of=4)([sample(3, 1), sample(5, 1)])
    assert batch["input_ids"].shape == (2, 8)


def test_a_missing_pad_token_is_refused():
    with pytest.raises(ValueError, match="no pad token"):
        CommentaryCollator(None)
