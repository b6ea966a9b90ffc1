"""Attention from a turn's new tokens to a long cache on a CPU, without a mask.

PyTorch's CPU attention needs a mask for new tokens after cached ones, and every head reads it again. Cached tokens need
no mask, because every new token sees all of them; heads that share keys become rows of one query. Attention among the
new tokens is plain causal attention. The two results are combined exactly by their log-sum-exps, as in
`attend_in_parts`.
"""

from __future__ import annotations

import torch

from livecc_hf.acceleration.slot_batch import SlotBatch

# Below these sizes a mask costs less than two calls (measured on two cores with AVX-512).
_MIN_NEW, _MIN_OLD = 64, 1024


class LeanBatch(SlotBatch):
    """A packed batch with :func:`attend_causal`; used as a model's `packed_batch` on a CPU."""

    def attend_causal(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """As `PackedBatch.attend_causal`."""
        found = attend_causal(query, keys, values, scale)
        return super().attend_causal(query, keys, values, scale) if found is None else found


def attend_causal(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor | None:
    """Attend causally from the last tokens of a stream.

    Args:
        query: (1, heads, new tokens, head size).
        keys, values: (1, key-value heads, cached and new tokens, head size).
        scale: factor of the scores.

    Returns:
        (1, new tokens, heads, head size), or `None` if this would not be faster than with a mask.
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
    # the cached tokens' share of the sum of exponentials
    share = (old_sums.reshape(1, n_heads, n) - new_sums).sigmoid_()[..., None]
    attended = of_new.float().lerp(of_old.reshape(query.shape).float(), share)
    return attended.transpose(1, 2).to(query.dtype)
