"""Attention to a long cache in two parts equals attention with a mask."""

import copy

import pytest
import torch
from pooled import OPTIONS, assert_same

from livecc_hf.acceleration import causal_attention
from livecc_hf.acceleration.causal_attention import attend_causal
from livecc_hf.modeling.attention import PackedBatch


def masked(query, keys, values, scale):
    n, length = query.shape[2], keys.shape[2]
    seen = torch.ones(n, length, dtype=torch.bool).tril(length - n)
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=seen, scale=scale, enable_gqa=True
    )
    return attended.transpose(1, 2)


def drawn(n, length, n_heads, n_kv_heads, dtype=torch.float32, spread=1.0):
    torch.manual_seed(n)
    query = torch.randn(1, n_heads, n, 32) * spread
    keys, values = torch.randn(2, 1, n_kv_heads, length + 9, 32).unbind()
    return query.to(dtype), keys.to(dtype)[:, :, :length], values.to(dtype)[:, :, :length]  # strided, as in a cache


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(8, 2), (4, 4), (3, 1)])
@pytest.mark.parametrize(("n", "length"), [(64, 1088), (150, 3000)])
def test_causal_attention_in_two_parts_equals_masked_attention(n, length, n_heads, n_kv_heads):
    query, keys, values = drawn(n, length, n_heads, n_kv_heads)
    torch.testing.assert_close(
        attend_causal(query, keys, values, 0.2), masked(query, keys, values, 0.2), atol=1e-6, rtol=1e-5
    )


def test_large_scores_and_bfloat16_stay_accurate():
    query, keys, values = drawn(70, 1500, 4, 2, spread=30.0)
    torch.testing.assert_close(
        attend_causal(query, keys, values, 1.0), masked(query, keys, values, 1.0), atol=1e-5, rtol=1e-5
    )
    query, keys, values = drawn(70, 1500, 4, 2, torch.bfloat16)
    found = attend_causal(query, keys, values, 0.2)
    assert found.dtype == torch.bfloat16
    expected = masked(query.float(), keys.float(), values.float(), 0.2)
    error, of_mask = ((way.float() - expected).abs().mean() for way in (found, masked(query, keys, values, 0.2)))
    assert error < 1.5 * of_mask


@pytest.mark.parametrize(("n", "length"), [(63, 2000), (100, 1100), (1, 3000)])
def test_short_inputs_use_the_masked_attention(n, length):
    assert attend_causal(*drawn(n, length, 4, 2), 0.2) is None


def test_a_stream_generates_the_same_with_it(make_model, processor, load_frames, monkeypatch):
    model = copy.deepcopy(make_model("mrope"))
    frames = load_frames("live_cc")[:14, :, :84, :112]
    model.packed_batch = PackedBatch
    expected = model.start_stream(processor, **vars(OPTIONS)).push(frames)
    calls = []

    def counted(*arguments):
        found = attend_causal(*arguments)
        calls.append(found is not None)
        return found

    monkeypatch.setattr(causal_attention, "_MIN_NEW", 2)
    monkeypatch.setattr(causal_attention, "_MIN_OLD", 1)
    monkeypatch.setattr(causal_attention, "attend_causal", counted)
    model.packed_batch = causal_attention.LeanBatch
    assert_same(model.start_stream(processor, **vars(OPTIONS)).push(frames), expected)
    assert any(calls)
