"""Attention from one token of each stream to long caches, with the keys split into parts that run in parallel.

Attention kernels with a mask assign one thread block to each head, which walks its keys one after the other: with 4
key-value heads, that is 4 blocks for 132 multiprocessors. Here each head's keys are viewed as those of many shorter
heads, and the parts are combined exactly by their log-sum-exps, as in flash decoding. The number of tokens in each
stream is data (a mask over memory of a fixed size), so shapes, and with them kernels, are the same for every token.
"""

from __future__ import annotations

import torch

_MIN_BLOCKS = 128  # about one for each multiprocessor of a large GPU
_MAX_PARTS = 32
_MIN_PART = 128  # keys that a thread block processes at a time
# Added to scores of masked keys. Not -inf, which gives NaN in a part where all keys are masked.
_UNSEEN = -1e4


def n_parts(n_heads: int, n_keys: int) -> int:
    """Return into how many parts to split keys: a power of two.

    Args:
        n_heads: key-value heads of all streams together.
        n_keys: keys of each head, a multiple of 256.
    """
    parts = 1
    while parts < _MAX_PARTS and n_heads * parts < _MIN_BLOCKS and n_keys // (2 * parts) >= _MIN_PART:
        parts *= 2
    return parts


def split_mask(last: torch.Tensor, n_keys: int, n_heads: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the mask to add to the scores of streams that see their keys up to index `last`.

    Args:
        last: (n,) index of the last key that each stream sees; `n_keys` or more: all keys.
        n_keys: keys of each head, a multiple of 256.
        n_heads: key-value heads.
        dtype: dtype of the keys.

    Returns:
        (n * heads, parts, 1, keys of a part).
    """
    is_later = torch.arange(n_keys, device=last.device) > last[:, None]
    mask = torch.zeros(is_later.shape, dtype=dtype, device=last.device).masked_fill_(is_later, _UNSEEN)
    mask = mask[:, None].expand(-1, n_heads, -1)
    return mask.reshape(len(last) * n_heads, n_parts(len(last) * n_heads, n_keys), 1, -1)


def attend_in_parts(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend from one token of each of n streams to its first keys.

    Args:
        query: (n, heads, head size).
        keys, values: (n, key-value heads, at least the mask's keys, head size); heads evenly spaced in memory.
        mask: from :func:`split_mask`; its shape gives the number of keys and parts.
        scale: factor of the scores.

    Returns:
        (n, heads, head size), in the dtype of `query`.
    """
    n, n_heads, size = query.shape
    n_kv_heads, dtype = keys.shape[1], query.dtype
    _, parts, _, part = mask.shape
    query = query.to(keys.dtype)  # autocast may have changed the dtype
    # Views: each key-value head becomes a batch entry, and its parts become heads.
    keys, values = (held[:, :, : parts * part].flatten(0, 1).unflatten(1, (parts, part)) for held in (keys, values))
    grouped = query.reshape(n * n_kv_heads, 1, n_heads // n_kv_heads, size)
    n_rows = grouped.shape[2]  # heads that share keys
    attended, log_sums = _attend(
        grouped.expand(-1, parts, -1, -1), keys, values, mask.expand(-1, -1, n_rows, -1), scale
    )
    if parts > 1:
        shares = log_sums.softmax(1)[..., None]  # each part's share of the sum of exponentials
        attended = (attended * shares).sum(1)
    return attended.reshape(n, n_heads, size).to(dtype)


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention and its log-sum-exps, (batch, heads, rows) in float32.

    Kernels are called by name, because PyTorch may choose cuDNN, which builds a plan for each shape and may refuse the
    mask.
    """
    aten = torch.ops.aten
    if query.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(query, keys, values, attn_mask=mask, scale=scale)
    found = aten._scaled_dot_product_efficient_attention(query, keys, values, mask, True, scale=scale)
    return found[0], found[1][..., : query.shape[2]]  # its log-sum-exps are padded
