"""The lean vision tower computes the same as the stock one, in fewer operations."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from livecc_hf.acceleration import vision
from livecc_hf.acceleration.vision import PICTURE_SDPA, PatchProjection, picture_groups, use_lean_vision
from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

GRIDS = [[3, 4, 6], [2, 6, 4], [1, 2, 4], [2, 4, 4], [1, 4, 6]]  # of three sizes, the first in two places


@pytest.fixture()
def towers(published_checkpoint):
    """A small tower of 2 blocks, stock and lean."""
    visual = LiveCCForConditionalGeneration.from_pretrained(published_checkpoint).model.visual
    plain, lean = copy.deepcopy(visual), copy.deepcopy(visual)
    for tower in (plain, lean):
        tower.config = copy.deepcopy(visual.config)
        for block in tower.blocks:
            block.attn.config = tower.config
    use_lean_vision(lean)
    return plain, lean


def patches_of(grids):
    torch.manual_seed(0)
    return torch.randn(sum(t * h * w for t, h, w in grids), 1176)


@pytest.mark.parametrize("grids", [GRIDS, GRIDS[:1]], ids=["of all sizes", "one video"])
def test_vision_tokens_and_gradients_equal_the_stock_towers(towers, grids):
    found = []
    for tower in towers:
        patches = patches_of(grids).requires_grad_()
        tokens = tower(patches, grid_thw=torch.tensor(grids)).pooler_output
        tokens.square().mean().backward()
        found.append([tokens, patches.grad, *(parameter.grad for parameter in tower.parameters())])
    for plain, lean in zip(*found):
        torch.testing.assert_close(lean, plain, rtol=1e-6, atol=1e-6)


def test_frames_of_one_size_share_one_attention_call(towers, monkeypatch):
    calls = []
    attend = vision.sdpa_attention_forward
    monkeypatch.setattr(vision, "sdpa_attention_forward", lambda *args, **kw: calls.append(1) or attend(*args, **kw))
    lean = towers[1]
    lean(patches_of(GRIDS), grid_thw=torch.tensor(GRIDS))
    assert picture_groups(GRIDS) == (
        (24, (slice(0, 120), slice(160, 184))),
        (8, (slice(120, 128),)),
        (16, (slice(128, 160),)),
    )
    assert len(calls) == 3 * len(lean.blocks)


def test_the_towers_own_modules_and_hooks_run(towers):
    """Adapters, hooks and changed modules still take effect."""
    lean, seen = towers[1], []
    before = lean(patches_of(GRIDS), grid_thw=torch.tensor(GRIDS)).pooler_output
    for name, module in lean.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: seen.append(name))
    lean.blocks[0].mlp.fc1 = nn.Sequential(lean.blocks[0].mlp.fc1, nn.Tanh())
    after = lean(patches_of(GRIDS), grid_thw=torch.tensor(GRIDS)).pooler_output
    never = {"blocks", "blocks.0.mlp.fc1", "blocks.0.mlp.fc1.0", "blocks.0.mlp.fc1.1"}
    assert {name for name, _ in lean.named_modules()} - set(seen) <= never | {"rotary_pos_emb"}
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_frozen_tower_saves_no_activations(towers, is_frozen):
    lean = towers[1].requires_grad_(not is_frozen).train()
    lean.gradient_checkpointing_enable()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        tokens = lean(patches_of(GRIDS).requires_grad_(), grid_thw=torch.tensor(GRIDS)).pooler_output
    assert tokens.requires_grad is not is_frozen
    assert bool(kept) is not is_frozen


def test_parameter_names_and_eager_attention_are_not_changed(towers, make_model):
    plain, lean = towers
    assert list(plain.state_dict()) == list(lean.state_dict())
    assert isinstance(lean.patch_embed.proj, PatchProjection) and lean.config._attn_implementation == PICTURE_SDPA
    eager = copy.deepcopy(plain)
    eager.config._attn_implementation = "eager"
    use_lean_vision(eager)
    tokens = [tower(patches_of(GRIDS), grid_thw=torch.tensor(GRIDS)).pooler_output for tower in (plain, eager)]
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(*tokens, rtol=1e-5, atol=1e-5)


def test_a_deep_copy_uses_its_own_weights(towers):
    lean = towers[1]
    other = copy.deepcopy(lean)
    other.merger.mlp[2].bias.data += 1
    tokens = [tower(patches_of(GRIDS), grid_thw=torch.tensor(GRIDS)).pooler_output for tower in (lean, other)]
    torch.testing.assert_close(tokens[1], tokens[0] + 1)


def test_an_input_larger_than_a_patch_is_convolved(towers):
    plain, lean = towers
    pictures = torch.randn(2, 3, 4, 28, 28)
    with torch.no_grad():
        expected, found = (tower.patch_embed.proj(pictures) for tower in (plain, lean))
    assert found.shape == (2, expected.shape[1], 2, 2, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vision_tokens_equal_the_stock_towers_on_a_gpu(towers, dtype):
    bound = 1e-4 if dtype is torch.float32 else 5e-2
    with nullcontext() if dtype is torch.float32 else torch.autocast("cuda", dtype):
        tokens = [
            tower.to("cuda")(patches_of(GRIDS).to("cuda"), grid_thw=torch.tensor(GRIDS, device="cuda")).pooler_output
            for tower in towers
        ]
    torch.testing.assert_close(tokens[1], tokens[0], rtol=bound, atol=bound)
