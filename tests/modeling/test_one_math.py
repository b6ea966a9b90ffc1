"""Streams run the backbone's own modules, so a changed module changes the stream."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from pooled import OPTIONS, assert_same
from torch import nn
from torch.nn.attention.bias import CausalBias

from livecc_hf.modeling.attention import PackedBatch
from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

MODELING = Path(__file__).parents[2] / "modeling"


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:12, :, :84, :112]


@pytest.fixture
def model(make_model):
    return copy.deepcopy(make_model("mrope"))


def one_pass(model, processor, frames, segments, token_ids):
    """Logits of all generated tokens, by one pass over the whole conversation without a cache."""
    clips = [frames[:6], *frames[6:].split(2)]
    resized = [processor.video_processor.resized(clip, OPTIONS.min_pixels, OPTIONS.max_pixels) for clip in clips]
    patches, grids = zip(*(processor.video_processor.frames_to_patches(clip, do_resize=False) for clip in resized))
    ids = torch.tensor([token_ids])
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=2 * (ids == model.config.video_token_id).int(),
            pixel_values_videos=torch.cat(patches),
            video_grid_thw=torch.cat(grids),
        ).logits[0]
    return logits


def streamed(model, processor, frames):
    stream = model.start_stream(processor, OPTIONS, window="none")
    return stream.push(frames), stream.state.token_ids


class ChangedLayer(nn.Module):
    """A decoder layer as another release might compute it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states, **keywords):
        return 1.5 * self.layer(0.9 * hidden_states, **keywords) + 0.01


def test_a_replaced_decoder_layer_changes_the_stream(model, processor, frames):
    as_it_was = streamed(model, processor, frames)[0]
    layers = model.model.language_model.layers
    layers[1] = ChangedLayer(layers[1])
    segments, token_ids = streamed(model, processor, frames)
    assert not torch.allclose(segments[0].logits[0], as_it_was[0].logits[0], atol=1e-2)
    logits = one_pass(model, processor, frames, segments, token_ids)
    last = len(segments[-1].token_ids)
    torch.testing.assert_close(logits[-last:], segments[-1].logits, atol=1e-4, rtol=0)


def test_a_changed_vision_block_changes_the_stream(model, processor, frames):
    as_it_was = streamed(model, processor, frames)[0]
    block = model.model.visual.blocks[0]
    forward = block.forward
    block.forward = lambda hidden, **keywords: forward(hidden, **keywords) * 1.2
    segments, token_ids = streamed(model, processor, frames)
    assert not torch.allclose(segments[0].logits[0], as_it_was[0].logits[0], atol=1e-2)
    logits = one_pass(model, processor, frames, segments, token_ids)
    last = len(segments[-1].token_ids)
    torch.testing.assert_close(logits[-last:], segments[-1].logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_calls_other_than_streams_keep_their_attention_implementation(
    implementation, published_checkpoint, processor, frames
):
    model = LiveCCForConditionalGeneration.from_pretrained(
        published_checkpoint, attn_implementation=implementation, position_scheme="mrope"
    ).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        segments = model.start_stream(processor, OPTIONS).push(frames[:8])
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)
    assert implementation in model.config.text_config._attn_implementation
    model.set_attn_implementation("sdpa")
    assert_same(model.start_stream(processor, OPTIONS).push(frames[:8]), segments)


def test_modeling_imports_nothing_from_transformers_models():
    for path in MODELING.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith("transformers.models"), path.name


class OnCuda:
    """The attributes of a tensor that attention reads before it makes a mask."""

    device = torch.device("cuda")
    new_full = staticmethod(torch.full)


def test_amd_gpus_get_a_mask_tensor_aligned_to_the_newest_keys(monkeypatch):
    """Its device type is "cuda" too, but its causal mask may be aligned to the oldest keys."""
    caches = PackedBatch([], [])
    monkeypatch.setattr(torch.version, "hip", None)
    assert isinstance(caches._mask(2, 4, OnCuda), CausalBias)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    inf = torch.inf
    assert caches._mask(2, 4, OnCuda).tolist() == [[0, 0, 0, -inf], [0, 0, 0, 0]]
