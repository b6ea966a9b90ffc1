"""Matrix products in float32 on a processor: oneDNN's, where PyTorch would call a slower library.

PyTorch hands float32 products to MKL, which leaves the widest instructions of processors that are not Intel's unused.
oneDNN is part of every PyTorch for x86 and uses them; it costs more per call, so small products stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import linear

# From so many elements of a weight (1 MB, more than a core's cache keeps) or multiplications on it pays.
_MIN_WEIGHT = 1 << 18
_MIN_MULTIPLICATIONS = 1 << 21
# Of attention for each key-value head: its shapes are new in each turn, and oneDNN makes a program for each (1 ms).
_MIN_ATTENTION = 1 << 26
# Scores at once: few enough to stay in the cache, of rows enough that reading keys and values anew costs little.
_SCORES_AT_ONCE = 1 << 20
_MIN_ROWS = 160


def is_for(tensor: torch.Tensor) -> bool:
    """Return whether oneDNN may compute with a tensor: a plain one of float32 on an x86 processor."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and type(tensor) in (torch.Tensor, nn.Parameter)
        and torch.backends.mkldnn.enabled
        and _is_available()
    )


def product(rows: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `rows @ columns.T + bias`, computed by oneDNN.

    Args:
        rows: (..., inner), float32.
        columns: (outer, inner), float32; contiguous, or the transpose of what is: oneDNN takes hundreds of times as
            long for others.
        bias: (outer,).
    """
    return torch.ops.mkldnn._linear_pointwise(rows.contiguous(), columns, bias, "none", [], "")


def bound_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what applies a linear layer of this weight (outer, inner) to (rows, inner), by the faster of both."""
    if not (is_for(weight) and weight.is_contiguous()):
        return partial(linear, weight=weight, bias=bias)
    if weight.numel() >= _MIN_WEIGHT:
        return partial(product, columns=weight, bias=bias)
    min_rows = -(-_MIN_MULTIPLICATIONS // max(weight.numel(), 1))
    return partial(_by_rows, weight=weight, bias=bias, min_rows=min_rows)


def is_for_attention(query: torch.Tensor, keys: torch.Tensor) -> bool:
    """Return whether :func:`attend` takes these and is the faster way."""
    return query.numel() // keys.shape[0] * keys.shape[1] >= _MIN_ATTENTION and is_for(query) and is_for(keys)


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, is_causal: bool
) -> torch.Tensor:
    """Attend from tokens to all keys, in blocks of queries whose scores stay in the processor's cache.

    Args:
        query: (tokens, heads, head size), float32.
        keys: (key-value heads, length, head size); each serves as many consecutive heads.
        values: of the shape of `keys`.
        scale: factor of the scores.
        is_causal: whether the tokens are the last of the `length`, and none sees a later one.

    Returns:
        As `query`.
    """
    n_tokens, n_heads, size = query.shape
    length, group = keys.shape[1], n_heads // keys.shape[0]
    query, attended = query * scale, torch.empty_like(query)
    keys, values = (held if held[0].is_contiguous() else held.contiguous() for held in (keys, values))
    step = max(_SCORES_AT_ONCE // length, _MIN_ROWS) // group or 1
    for first in range(0, n_tokens, step):
        end = min(first + step, n_tokens)
        seen = length - n_tokens + end if is_causal else length
        later = torch.full((end - first, end - first), -torch.inf).triu(1)[:, None] if is_causal else None
        for i, (its_keys, its_values) in enumerate(zip(keys[:, :seen], values[:, :seen])):
            block = slice(first, end), slice(i * group, (i + 1) * group)
            scores = product(query[block].reshape(-1, size), its_keys)
            if is_causal:
                scores.view(end - first, group, seen)[..., first - end :] += later
            attended[block] = product(scores.softmax(-1), its_values.t()).view(-1, group, size)
    return attended


def _by_rows(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, min_rows: int) -> torch.Tensor:
    return product(rows, weight, bias) if rows.shape[0] >= min_rows else linear(rows, weight, bias)


def _is_available() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return capability in ("AVX2", "AVX512") and hasattr(torch.ops.mkldnn, "_linear_pointwise")
