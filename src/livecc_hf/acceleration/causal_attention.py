"""Attention from a turn's tokens to a long cache on a CPU, without a mask.

A mask of scores, which PyTorch's attention on a CPU takes for new tokens behind old ones, is read again by every head.
The old tokens need none: every new token sees all of them, so the heads that share keys are read as more rows of one
head. The new tokens among themselves are plain causal attention. Both are put together by the logs of their sums of
exponentials, as in `attend_in_parts`, which is exact.
"""

from __future__ import annotations

import torch

# Below these the mask costs less than another two calls (measured on two cores with AVX-512).
_MIN_NEW, _MIN_OLD = 64, 1024


def attend_causal(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor | None:
    """Attend from the last tokens of a stream, each to itself and all before it; stands as `attend_causal` on a model.

    Args:
        query: (1, heads, new tokens, head size).
        keys, values: (1, key-value heads, old and new tokens, head size).
        scale: factor of the scores.

    Returns:
        (1, new tokens, heads, head size), or `None` where this would not pay.
    """
    _, n_heads, n, size = query.shape
    n_kv_heads, n_old = keys.shape[1], keys.shape[2] - n
    if n < _MIN_NEW or n_old < _MIN_OLD or query.device.type != "cpu" or query.dtype != keys.dtype:
        return None
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    grouped = query.reshape(1, n_kv_heads, -1, size)
    of_old, old_sums = attend(grouped, keys[:, :, :n_old], values[:, :, :n_old], scale=scale)
    new_keys, new_values = (
        held[:, :, n_old:].repeat_interleave(n_heads // n_kv_heads, dim=1) for held in (keys, values)
    )
    of_new, new_sums = attend(query, new_keys, new_values, is_causal=True, scale=scale)
    # of the sum of exponentials, the share of the old tokens
    share = (old_sums.reshape(1, n_heads, n) - new_sums).sigmoid_()[..., None]
    attended = of_new.float().lerp(of_old.reshape(query.shape).float(), share)
    return attended.transpose(1, 2).to(query.dtype)
