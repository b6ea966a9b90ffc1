"""All samples of a packed row in one call of attention; needs no package for training."""

import pytest
import torch

from livecc_hf.training.model import packed_attention
from livecc_hf.training.model.packed_attention import attend_at_once


def loop_of_sdpa(query, key, value, starts, starts_k, longest, longest_k, *, scale, window_size, enable_gqa):
    """What `varlen_attn` computes, which needs a GPU; tokens first: (tokens, heads, size)."""
    assert starts is starts_k and longest == longest_k == int(starts.diff().max()) and window_size == (-1, 0)
    samples = zip(*(states.split(starts.diff().tolist()) for states in (query, key, value)))
    attended = [
        torch.nn.functional.scaled_dot_product_attention(
            *(states.transpose(0, 1)[None] for states in sample), is_causal=True, scale=scale, enable_gqa=enable_gqa
        )
        for sample in samples
    ]
    return torch.cat([sample[0].transpose(0, 1) for sample in attended])


def packed_states(device="cpu", dtype=torch.float32):
    """Query, key and value of 2 rows of 12 tokens with samples of 5, 7, 9 and 3; 4 heads, 2 of keys."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(2, heads, 12, 16, generator=generator).to(device, dtype) for heads in (4, 2, 2)]
    return states, torch.tensor([0, 5, 12, 21, 24], dtype=torch.int32, device=device)


class Module(torch.nn.Module):
    num_key_value_groups = 2
    is_causal = True


def test_one_call_for_all_samples_is_given_what_sample_by_sample_is():
    states, starts = packed_states()
    found = attend_at_once(loop_of_sdpa, tuple(states), starts, 9, 0.3).reshape(2, 12, 4, 16)
    expected, _ = packed_attention._attend(Module(), *states, None, starts, scaling=0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_one_call_under_autocast_has_one_type():
    states, starts = packed_states()
    states[2] = states[2].bfloat16()  # a rotation leaves query and key in float32
    with torch.autocast("cpu", torch.bfloat16):
        assert attend_at_once(loop_of_sdpa, tuple(states), starts, 9, None).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(not packed_attention._HAS_VARLEN, reason="needs a PyTorch whose varlen_attn groups queries")
def test_on_a_gpu_one_call_equals_sample_by_sample():
    states, starts = packed_states("cuda", torch.bfloat16)
    keywords = {"max_length_q": 9, "scaling": 0.3}
    assert packed_attention._is_for_varlen(states[0], keywords)
    results = []
    for how in (keywords, {"scaling": 0.3}):  # without the longest length it goes sample by sample
        leaves = [state.clone().requires_grad_() for state in states]
        attended, _ = packed_attention._attend(Module(), *leaves, None, starts, **how)
        attended.float().square().sum().backward()
        results.append([attended, *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=5e-2)
