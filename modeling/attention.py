"""Attention of several streams in one packed sequence, each to its own KV cache.

The new tokens of all streams are concatenated in a batch of size 1, so that everything except attention is computed
for all of them at once, by the backbone's own modules. Their attention function is replaced by one that takes the
streams' caches as the keyword `stream_cache`; without that keyword it calls the original function.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from .kv_cache import KVCache

_PREFIX = "stream_"


class StreamCaches(Protocol):
    """The caches to which a forward pass attends, such as a `PackedBatch`."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """As `PackedBatch.attend`."""


def use_stream_attention(language_model: PreTrainedModel) -> None:
    """Let a language model's forward pass accept `stream_cache=PackedBatch(...)` and attend to those caches.

    Without that keyword, attention and masks are unchanged.

    Args:
        language_model: a transformers text model whose attention layers look up their function by the config's
            `_attn_implementation`.
    """
    base = language_model.config._attn_implementation or "eager"
    if base.startswith(_PREFIX):
        return
    name = _PREFIX + base
    if name not in AttentionInterface():
        AttentionInterface.register(name, _stream_attention(base))
    masks = AttentionMaskInterface()
    if base in masks and name not in masks:
        AttentionMaskInterface.register(name, masks[base])
    language_model.config._attn_implementation = name


def _stream_attention(base: str) -> Callable:
    """Return an attention function for `AttentionInterface` that falls back to the one named `base`."""

    def attend(
        module: Any,  # an attention layer of any backbone
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        stream_cache: StreamCaches | None = None,
        **keywords: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if stream_cache is None:
            function = AttentionInterface().get(base) or _eager_attention(type(module))
            return function(module, query, key, value, attention_mask, scaling=scaling, **keywords)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return stream_cache.attend(module.layer_idx, query, key, value, scale), None

    return attend


def _eager_attention(attention_class: type) -> Callable:
    """Return the eager attention function in a class's module; transformers does not register one."""
    for owner in attention_class.__mro__:
        function = getattr(sys.modules[owner.__module__], "eager_attention_forward", None)
        if function is not None:
            return function
    raise RuntimeError(
        f"the module of {attention_class.__name__} has no eager_attention_forward: use attn_implementation='sdpa'"
    )


class PackedBatch:
    """The caches of the B streams in a packed sequence, passed through the layers as `stream_cache`.

    Args:
        caches: one for each stream.
        n_new: number of new tokens of each stream in the sequence.
        n_steps: most forward passes that will use this batch, each with the same `n_new`.

    Attributes:
        slots: (B,) the slots of the caches, here taken for all before the first grows the memory.
        last: (B,) index of each stream's last token in the sequence; only their hidden states are read after a pass.
    """

    def __init__(self, caches: Sequence[KVCache], n_new: Sequence[int], n_steps: int = 1):
        self.caches, self.n_new = caches, n_new
        self.slots = [cache.slot for cache in caches]
        self.n_steps = n_steps
        self.last = torch.tensor(n_new).cumsum(0) - 1
        first = itertools.accumulate(n_new, initial=0)
        self._spans = [slice(at, at + n) for at, n in zip(first, n_new)]  # each stream's tokens in the sequence
        self._masks: dict[tuple, torch.Tensor] = {}

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Append a layer's new keys and values to the caches, and attend causally within each stream.

        Args:
            layer: the layer's index.
            query: (1, heads, new tokens, head size), rotated; or only those of the tokens `last`.
            key: (1, key-value heads, new tokens, head size), rotated.
            value: of the shape of `key`.
            scale: factor of the scores.

        Returns:
            (1, new tokens, heads, head size), or (1, B, heads, head size) if `query` has only the tokens `last`.
        """
        if len(self.caches) == 1:
            return self._attend_one(self.caches[0], layer, query, key, value, scale)
        attended = torch.empty_like(query.transpose(1, 2))
        self._attend_each(range(len(self.caches)), attended, layer, query, key, value, scale)
        return attended

    def advance(self) -> None:
        """Count the tokens that all layers have appended; if each stream has one, the batch can take the next."""
        for cache, n in zip(self.caches, self.n_new):
            cache.advance(n)

    def attend_causal(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend from the n newest tokens of one stream, each to the tokens up to itself.

        Args:
            query: (1, heads, n, head size).
            keys: (1, key-value heads, tokens, head size).
            values: of the shape of `keys`.
            scale: factor of the scores.

        Returns:
            (1, n, heads, head size).
        """
        _, n_heads, n, size = query.shape
        n_kv_heads = keys.shape[1]
        mask, is_grouped = self._mask(n, keys.shape[2], query), n_heads > n_kv_heads
        if is_grouped and query.is_cuda and not _can_use_flash(query, keys, values):
            # The other kernel that does not hold all scores in memory takes no groups: each becomes a batch entry.
            query, is_grouped = query.reshape(n_kv_heads, -1, n, size), False
            keys, values = (held.transpose(0, 1).expand(-1, query.shape[1], -1, -1) for held in (keys, values))
        attended = scaled_dot_product_attention(query, keys, values, mask, scale=scale, enable_gqa=is_grouped)
        return attended.reshape(1, n_heads, n, size).transpose(1, 2)

    def _attend_each(
        self,
        streams: Iterable[int],
        attended: torch.Tensor,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> None:
        """Write the results of some streams, by index, to their tokens in `attended`; see :meth:`attend`."""
        is_of_last = query.shape[2] == len(self.caches)
        for i in streams:
            new = self._spans[i]
            asked = slice(i, i + 1) if is_of_last else new
            of_stream = query[:, :, asked], key[:, :, new], value[:, :, new]
            attended[:, asked] = self._attend_one(self.caches[i], layer, *of_stream, scale)

    def _attend_one(
        self, cache: KVCache, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend from the new tokens of one stream, or from the last of them."""
        _, n_heads, n, size = query.shape
        keys, values = cache.append(layer, key, value)
        if n > 1 or query.device.type == "cuda":
            return self.attend_causal(query, keys, values, scale)
        # Heads that share keys become rows of one query: no key is copied, and no mask is needed. Not on CUDA:
        # PyTorch may choose cuDNN, which builds a plan for each length.
        grouped = query.reshape(1, keys.shape[1], -1, size)
        return scaled_dot_product_attention(grouped, keys, values, scale=scale).view(1, 1, n_heads, size)

    def _mask(self, n_new: int, n_all: int, like: torch.Tensor) -> torch.Tensor:
        """Return the causal mask of the newest tokens: on CUDA one that flash attention accepts, else a tensor."""
        # Not on AMD GPUs (also device "cuda"), where it may be aligned to the oldest keys instead of the newest.
        if like.device.type == "cuda" and torch.version.hip is None:
            return causal_lower_right(n_new, n_all)
        key = n_new, n_all, like.device
        if key not in self._masks:  # the same for all layers; float, because a bool mask is converted in every call
            mask = self._masks[key] = like.new_full((n_new, n_all), 0.0)
            mask[:, n_all - n_new :] = like.new_full((n_new, n_new), -torch.inf).triu_(1)
        return self._masks[key]


def _can_use_flash(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
    """Return whether flash attention takes these: not in float32, nor on GPUs older than Ampere."""
    return can_use_flash_attention(SDPAParams(query, keys, values, None, 0.0, False, True))


def run(
    module: PreTrainedModel,
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    stream_cache: StreamCaches,
    **inputs: torch.Tensor,
) -> torch.Tensor:
    """Run the backbone's own forward pass over a packed sequence.

    Args:
        module: the model's body, or its language model if there are no frames.
        token_ids: (tokens,), on the device of the embeddings.
        positions: (3, tokens), on the same device.
        stream_cache: the caches that the layers attend to, such as a `PackedBatch`.
        **inputs: the body's patches and grids.

    Returns:
        Hidden states of shape (tokens, hidden).
    """
    return module(
        input_ids=token_ids[None],
        position_ids=positions[:, None],
        attention_mask=_no_mask(token_ids.device),
        use_cache=False,
        stream_cache=stream_cache,
        **inputs,
    ).last_hidden_state[0]


@lru_cache
@torch.inference_mode(False)  # it outlives the caller's mode
def _no_mask(device: torch.device) -> torch.Tensor:
    """Return a 4-D dummy, which transformers takes for a ready mask, so that it does not build one."""
    return torch.zeros(1, 1, 1, 1, device=device)
