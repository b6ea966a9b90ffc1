"""Matrix products in float32 on a processor: oneDNN's, where PyTorch would call a slower library.

PyTorch hands float32 products to MKL, which leaves the widest instructions of processors that are not Intel's unused.
oneDNN is part of every PyTorch for x86 and uses them; it costs more per call, so small products stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn
from torch.nn.functional import linear, pad

# From so many elements of a weight (1 MB, more than a core's cache keeps) or multiplications on it pays.
_MIN_WEIGHT = 1 << 18
_MIN_MULTIPLICATIONS = 1 << 21
# oneDNN keeps a program and its memory for each shape it has met, of which there must be few: attention takes as many
# keys at a time, whose scores stay in the processor's cache, and other sizes are rounded up.
_KEYS_AT_ONCE = 1024
_ROUND_ROWS, _ROUND_TOKENS, _ROUND_KEYS = 32, 16, 128
# Of attention for each key-value head, from where it pays.
_MIN_ATTENTION = 1 << 26


def is_for(tensor: torch.Tensor) -> bool:
    """Return whether oneDNN may compute with a tensor: a plain one of float32 on an x86 processor."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and type(tensor) in (torch.Tensor, nn.Parameter)
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and _is_available()
    )


def product(rows: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `rows @ columns.T + bias`, computed by oneDNN.

    Args:
        rows: (n, inner), float32.
        columns: (outer, inner), float32; contiguous, or the transpose of what is: oneDNN takes hundreds of times as
            long for others.
        bias: (outer,).
    """
    n = rows.shape[0]
    surplus = -n % _ROUND_ROWS if n > _ROUND_ROWS else 0
    rows = pad(rows, (0, 0, 0, surplus)) if surplus else rows.contiguous()
    return torch.ops.mkldnn._linear_pointwise(rows, columns, bias, "none", [], "")[:n]


def bound_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what applies a linear layer of this weight (outer, inner) to (rows, inner) or (inner,) the fastest way."""
    if not (is_for(weight) and weight.is_contiguous()):
        return partial(linear, weight=weight, bias=bias)
    if weight.numel() >= _MIN_WEIGHT:
        return partial(_by_onednn, weight=weight, bias=bias)
    min_rows = -(-_MIN_MULTIPLICATIONS // max(weight.numel(), 1))
    return partial(_by_rows, weight=weight, bias=bias, min_rows=min_rows)


def is_for_attention(query: torch.Tensor, keys: torch.Tensor) -> bool:
    """Return whether :func:`attend` takes these and is the faster way."""
    return query.numel() // keys.shape[0] * keys.shape[1] >= _MIN_ATTENTION and is_for(query) and is_for(keys)


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, length: int | None = None
) -> torch.Tensor:
    """Attend from tokens to keys, some keys at a time; what each part gives is weighted by its sum of exponentials.

    That is exact (online softmax, arXiv 1805.02867; FlashAttention, arXiv 2205.14135, section 3.1).

    Args:
        query: (tokens, heads, head size), float32.
        keys: (key-value heads, keys, head size); each serves as many consecutive heads.
        values: of the shape of `keys`.
        scale: factor of the scores.
        length: how many of the keys count, the others being any finite numbers; the tokens are then the last of them,
            and none sees a later one. `None`: all see all.

    Returns:
        As `query`.
    """
    n_tokens, n_heads, size = query.shape
    group = n_heads // keys.shape[0]
    query = pad(query * scale, (0, 0, 0, 0, 0, -n_tokens % _ROUND_TOKENS))
    n_rows = query.shape[0] * group
    keys, values = (held if held[0].is_contiguous() else held.contiguous() for held in (keys, values))
    n_before = keys.shape[1] if length is None else length - n_tokens  # keys that all tokens see
    parts = [(at, min(at + _KEYS_AT_ONCE, n_before)) for at in range(0, n_before, _KEYS_AT_ONCE)]
    if length is not None:
        parts.append((n_before, length))
    attended = torch.empty_like(query)
    for i, (its_keys, its_values) in enumerate(zip(keys, values)):
        rows = query[:, i * group : (i + 1) * group].reshape(n_rows, size)
        found, weights = [], []
        for first, end in parts:
            its = slice(first, first + _round_up(end - first, _ROUND_KEYS))
            scores = product(rows, its_keys[its])
            if first == n_before:
                later = scores.new_full((len(query), scores.shape[1]), -torch.inf).triu(1)
                scores.view(-1, group, scores.shape[1]).add_(later[:, None])
            else:
                scores[:, end - first :] = -torch.inf
            shares = scores.softmax(-1)
            found.append(product(shares, its_values[its].t()))
            weights.append(scores.amax(-1) - shares.amax(-1).log())  # the logarithm of the sum of exponentials
        weight = torch.stack(weights).softmax(0)[..., None]
        attended[:, i * group : (i + 1) * group] = (torch.stack(found) * weight).sum(0).view(-1, group, size)
    return attended[:n_tokens]


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _by_onednn(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return product(rows[None], weight, bias)[0] if rows.ndim == 1 else product(rows, weight, bias)


def _by_rows(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, min_rows: int) -> torch.Tensor:
    if rows.ndim == 1:
        return torch.mv(weight, rows) if bias is None else torch.addmv(bias, weight, rows)
    return product(rows, weight, bias) if rows.shape[0] >= min_rows else linear(rows, weight, bias)


@cache
def _is_available() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return capability in ("AVX2", "AVX512") and hasattr(torch.ops.mkldnn, "_linear_pointwise")
