"""Positions: turn by turn against one pass, and against transformers' own, if both agree."""

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from livecc_hf.modeling.positions import PositionState, extend_positions, vision_positions

GRIDS = [(3, 4, 6), (1, 8, 4), (1, 2, 2)]


def conversation():
    """Types and message ends of: text, video, text, end, text, video, text, end, video, text."""
    types, ends = [0] * 7, [False] * 7
    for grid in GRIDS:
        n = grid[0] * grid[1] * grid[2] // 4
        types += [2] * n + [0] * 4
        ends += [False] * (n + 2) + [True, False]
    return torch.tensor(types), torch.tensor(ends)


@pytest.mark.parametrize("scheme", ["mrope", "sequential", "reference"])
@pytest.mark.parametrize("cuts", [[20], [9, 40], [7, 25, 26, 40]])
def test_positions_do_not_depend_on_how_turns_are_split_into_calls(scheme, cuts):
    types, ends = conversation()
    whole = extend_positions(types, GRIDS, PositionState(), scheme, ends)
    state, parts, grids = PositionState(), [], list(GRIDS)
    vision = (types != 0).tolist()
    cuts = [c for c in cuts if not (vision[c - 1] and vision[c])]  # a video is never split
    for start, stop in zip([0, *cuts], [*cuts, len(types)]):
        n, mine = int((types[start:stop] != 0).sum()), []
        while n:
            mine.append(grids.pop(0))
            n -= mine[-1][0] * mine[-1][1] * mine[-1][2] // 4
        parts.append(extend_positions(types[start:stop], mine, state, scheme, ends[start:stop]))
    assert torch.equal(torch.cat(parts, 1), whole)


def test_mrope_equals_transformers_where_space_is_not_shorter_than_time(published_checkpoint, make_model):
    stock = Qwen2VLForConditionalGeneration.from_pretrained(published_checkpoint)
    types, _ = conversation()
    ids = torch.ones_like(types)
    mask = torch.cat([torch.zeros(5), torch.ones(len(types))]).long()
    padded = [torch.cat([torch.zeros(5, dtype=torch.long), x]) for x in (ids, types)]
    inputs = {
        "input_ids": torch.stack([padded[0], padded[0]]),
        "mm_token_type_ids": torch.stack([padded[1], padded[1]]),
        "video_grid_thw": torch.tensor(GRIDS * 2),
        "attention_mask": torch.stack([mask, mask]),
    }
    expected, expected_delta = stock.model.get_rope_index(**inputs)
    positions, delta = make_model("mrope").model.get_rope_index(**inputs)
    assert torch.equal(positions, expected)
    assert torch.equal(delta, expected_delta)


def test_text_after_a_long_video_starts_after_its_last_temporal_step():
    state = PositionState(next_position=10)
    positions = extend_positions([2] * 12 + [0], [(12, 2, 2)], state, "mrope")
    assert positions[:, -1].tolist() == [22, 22, 22]
    assert torch.equal(vision_positions((1, 4, 4), 5), torch.tensor([[5, 5, 5, 5], [5, 5, 6, 6], [5, 6, 5, 6]]))


def test_inconsistent_inputs_are_named_in_the_error():
    with pytest.raises(ValueError, match="'spiral' is unknown: expected one of mrope, sequential, reference"):
        extend_positions([0], [], PositionState(), "spiral")
    with pytest.raises(ValueError, match=r"make 4 tokens, but the sequence has 3 vision tokens"):
        extend_positions([2, 2, 2], [(1, 4, 4)], PositionState(), "mrope")


def test_missing_grids_are_named_in_the_error(make_model):
    with pytest.raises(ValueError, match="vision token of type 2 .* no grid is left"):
        make_model("mrope").model.get_rope_index(torch.tensor([[1, 1]]), mm_token_type_ids=torch.tensor([[0, 2]]))
