"""Matrix products in float32 on a processor: oneDNN's, where PyTorch would call a slower library.

PyTorch hands float32 products to MKL, which leaves the widest instructions of processors that are not Intel's unused.
oneDNN is part of every PyTorch for x86 and uses them; it costs more per call, so small products stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.functional import linear, pad

# From so many elements of a weight (1 MB, more than a core's cache keeps) or multiplications on it pays.
_MIN_WEIGHT = 1 << 18
_MIN_MULTIPLICATIONS = 1 << 21
# Of attention for each key-value head: its shapes are new in each turn, and oneDNN makes a program for each (1 ms).
_MIN_ATTENTION = 1 << 26
# Scores at once: few enough to stay in the cache, of rows enough that reading keys and values anew costs little.
_SCORES_AT_ONCE = 1 << 20
_MIN_ROWS = 160
# oneDNN keeps a program for each shape it has met, of which there must be few: sizes are rounded up to these.
_ROUND_ROWS, _ROUND_TOKENS, _ROUND_LENGTH = 32, 16, 128


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


def padded_length(length: int) -> int:
    """Return how many keys :func:`attend` takes where `length` of them count."""
    return _round_up(length, _ROUND_LENGTH)


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, length: int | None = None
) -> torch.Tensor:
    """Attend from tokens to keys, in blocks of queries whose scores stay in the processor's cache.

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
    n_keys, group = keys.shape[1], n_heads // keys.shape[0]
    n_padded = _round_up(n_tokens, _ROUND_TOKENS)
    query = pad(query * scale, (0, 0, 0, 0, 0, n_padded - n_tokens))
    attended = torch.empty_like(query)
    keys, values = (held if held[0].is_contiguous() else held.contiguous() for held in (keys, values))
    at_once = max(_SCORES_AT_ONCE // _round_up(n_keys, 1024), _MIN_ROWS) // group
    step = max(at_once // _ROUND_TOKENS, 1) * _ROUND_TOKENS
    for first in range(0, n_padded, step):
        end = min(first + step, n_padded)
        seen, later = n_keys, None
        if length is not None:
            before = length - n_tokens + first
            seen = min(_round_up(before + end - first, _ROUND_LENGTH), n_keys)
            later = torch.full((end - first, seen - before), -torch.inf).triu(1)[:, None]
        for i, (its_keys, its_values) in enumerate(zip(keys[:, :seen], values[:, :seen])):
            block = slice(first, end), slice(i * group, (i + 1) * group)
            scores = product(query[block].reshape(-1, size), its_keys)
            if later is not None:
                scores.view(end - first, group, seen)[..., before:] += later
            attended[block] = product(scores.softmax(-1), its_values.t()).view(-1, group, size)
    return attended[:n_tokens]


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def _by_rows(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, min_rows: int) -> torch.Tensor:
    return product(rows, weight, bias) if rows.shape[0] >= min_rows else linear(rows, weight, bias)


def _is_available() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return capability in ("AVX2", "AVX512") and hasattr(torch.ops.mkldnn, "_linear_pointwise")
