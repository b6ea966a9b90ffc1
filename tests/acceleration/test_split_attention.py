"""Attention with keys split into parts equals attention."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from livecc_hf.acceleration.split_attention import attend_in_parts, n_parts, split_mask

SHAPES = [(1, 4, 7, 8960, 32), (3, 2, 2, 512, 4), (24, 4, 7, 1024, 2), (1, 2, 3, 256, 2), (40, 4, 1, 512, 1)]


@pytest.mark.parametrize(("n", "n_kv_heads", "n_grouped", "n_keys", "parts"), SHAPES)
def test_split_attention_equals_attention(
    n, n_kv_heads, n_grouped, n_keys, parts, device="cpu", dtype=torch.float32, atol=1e-6
):
    torch.manual_seed(0)
    held = torch.randn(2, n, n_kv_heads, n_keys + 1, 16, device=device, dtype=dtype)  # the last is never read
    held[..., n_keys, :] = torch.nan
    query = torch.randn(n, n_kv_heads * n_grouped, 16, device=device, dtype=dtype)
    last = torch.randint(0, n_keys, (n,), device=device)
    last[0], last[-1] = 0, n_keys if n > 1 else n_keys // 3
    mask = split_mask(last, n_keys, n_kv_heads, dtype)
    assert mask.shape == (n * n_kv_heads, parts, 1, n_keys // parts)
    got = attend_in_parts(query, *held, mask, 0.3)
    for i, end in enumerate(last.clamp(max=n_keys - 1).tolist()):
        keys, values = (part[i, :, : end + 1].repeat_interleave(n_grouped, 0).float() for part in held)
        expected = scaled_dot_product_attention(query[i, :, None].float(), keys, values, scale=0.3)[:, 0]
        torch.testing.assert_close(got[i].float(), expected, atol=atol, rtol=0)


def test_queries_and_cache_may_have_different_dtypes():
    """As under autocast."""
    held = torch.randn(2, 1, 2, 257, 16)
    query, mask = torch.randn(1, 4, 16), split_mask(torch.tensor([200]), 256, 2, torch.float32)
    got = attend_in_parts(query.bfloat16(), *held, mask, 1.0)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), attend_in_parts(query, *held, mask, 1.0), atol=0.05, rtol=0)


def test_fewer_heads_get_more_parts_of_at_least_128_keys():
    assert n_parts(4, 8960) == 32
    assert n_parts(4, 256) == 2  # of 128 keys
    assert n_parts(96, 8960) == 2
    assert n_parts(128, 8960) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 5e-3)])
@pytest.mark.parametrize(("n", "n_kv_heads", "n_grouped", "n_keys", "parts"), SHAPES)
def test_split_attention_equals_attention_on_cuda(n, n_kv_heads, n_grouped, n_keys, parts, dtype, atol):
    test_split_attention_equals_attention(n, n_kv_heads, n_grouped, n_keys, parts, "cuda", dtype, atol)
