"""Attention of several streams in one packed sequence: each sees its own cache.

The new tokens of all streams stand one after the other in a batch of size 1, so that everything but attention is
computed for all of them at once. The backbone's own modules compute it: their attention function is replaced by one
that reads the streams' caches from the keyword `stream_cache`, and without that keyword does what it did before.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from .decode_slots import DecodeSlots
from .kv_cache import KVCache
from .transfer import to_device

_PREFIX = "stream_"


def use_stream_attention(language_model: PreTrainedModel) -> None:
    """Let a language model attend to streams' caches where its forward pass is given `stream_cache=PackedBatch(...)`.

    Without that keyword nothing changes: attention and masks are those that the model had.

    Args:
        language_model: a text model of transformers whose attention layers look their function up by the config's
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

    def attend(module, query, key, value, attention_mask, scaling=None, stream_cache=None, **keywords):
        if stream_cache is None:
            function = AttentionInterface().get(base) or _eager_attention(type(module))
            return function(module, query, key, value, attention_mask, scaling=scaling, **keywords)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return stream_cache.attend(module.layer_idx, query, key, value, scale)[None], None

    return attend


def _eager_attention(attention_class: type) -> Callable:
    """Return the eager attention function that stands beside a class; transformers registers none."""
    for owner in attention_class.__mro__:
        function = getattr(sys.modules[owner.__module__], "eager_attention_forward", None)
        if function is not None:
            return function
    raise RuntimeError(
        f"no eager_attention_forward stands beside {attention_class.__name__}: use attn_implementation='sdpa'"
    )


class PackedBatch:
    """The caches of the streams in a packed sequence, passed through the layers as `stream_cache`.

    Args:
        caches: one a stream.
        n_new: how many tokens of the sequence are of each stream.
        attend_causal: see `StreamingMixin`.

    Attributes:
        last: (B,) each stream's last token in the sequence; only their hidden states are read after a pass.
    """

    def __init__(self, caches: Sequence[KVCache], n_new: Sequence[int], attend_causal: Callable | None = None):
        self.caches = caches
        self.n_new = n_new
        self._attend_causal = attend_causal
        self.last = torch.tensor(n_new).cumsum(0) - 1
        self._masks: dict[tuple, torch.Tensor] = {}
        # Streams of one token each that share their memory, by their indices in the batch.
        of_memory: dict[int, list[int]] = {}
        if len(caches) > 1 and all(n == 1 for n in n_new):
            for i, cache in enumerate(caches):
                of_memory.setdefault(id(cache.memory), []).append(i)
        shared = [rows for rows in of_memory.values() if len(rows) > 1]
        self._batched = [(rows, DecodeSlots([caches[i] for i in rows])) for rows in shared]
        # The others: their indices in the batch, and which of its tokens are theirs.
        first = itertools.accumulate(n_new, initial=0)
        spans = [(i, slice(at, at + n)) for i, (at, n) in enumerate(zip(first, n_new))]
        in_company = set(itertools.chain(*shared))
        self._ragged = [(i, new) for i, new in spans if i not in in_company]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Add the new tokens of a layer to the caches, and attend from each to its stream up to itself.

        Args:
            layer: the layer's index.
            query: (new tokens, heads, head size), rotated; or of the tokens `last` only.
            key: (new tokens, key-value heads, head size), rotated.
            value: of the shape of `key`.
            scale: factor of the scores.

        Returns:
            As `query`.
        """
        if len(self.caches) == 1:
            return self._attend_one(self.caches[0], layer, query, key, value, scale)
        if len(self._batched) == 1 and not self._ragged:
            return self._attend_batched(self._batched[0][1], layer, query, key, value, scale)
        attended = torch.empty_like(query)
        for rows, slots in self._batched:
            attended[rows] = self._attend_batched(slots, layer, query[rows], key[rows], value[rows], scale)
        is_of_last = len(query) == len(self.caches)
        for i, new in self._ragged:
            of_query = slice(i, i + 1) if is_of_last else new
            attended[of_query] = self._attend_one(self.caches[i], layer, query[of_query], key[new], value[new], scale)
        return attended

    def advance(self) -> None:
        """Make the caches count what all layers have added; with one token each, they may take the next then."""
        for cache, n in zip(self.caches, self.n_new):
            cache.advance(n)
        for _, slots in self._batched:
            slots.advance()

    def _attend_one(self, cache, layer, query, key, value, scale):
        """Attend from the new tokens of one stream, or the last of them."""
        n, n_heads, size = query.shape
        keys, values = cache.append(layer, key, value)
        _, n_kv_heads, length, _ = keys.shape
        if n == 1 and query.device.type != "cuda":
            # Heads that share keys become rows of one query: no key is copied, and no mask is needed. Not on CUDA,
            # where this may go to cuDNN, which makes a plan for each length.
            grouped = query.reshape(1, n_kv_heads, -1, size)
            return scaled_dot_product_attention(grouped, keys, values, scale=scale).view(1, n_heads, size)
        if self._attend_causal is not None and (found := self._attend_causal(query, keys, values, scale)) is not None:
            return found
        attended = scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys,
            values,
            attn_mask=self._mask(n, length, query),
            scale=scale,
            enable_gqa=n_heads > n_kv_heads,
        )
        return attended[0].transpose(0, 1)

    def _attend_batched(self, slots, layer, query, key, value, scale):
        """Attend from a token of each stream, in one operation over the memory that they share."""
        keys, values, mask = slots.append(layer, key, value)
        n_heads, size = query.shape[1:]
        n_kv_heads = keys.shape[1]
        grouped = slots.to_slots(query).reshape(-1, n_kv_heads, n_heads // n_kv_heads, size)
        if query.device.type == "cpu":  # for a few rows, plain products are faster than blocks of scores
            grouped, keys, values, mask = (t.flatten(0, 1) for t in (grouped, keys, values, mask))
            scores = torch.baddbmm(mask, grouped, keys.transpose(1, 2), alpha=scale)
            attended = torch.bmm(scores.softmax(-1), values)
        else:
            attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
        return slots.from_slots(attended.reshape(-1, n_heads, size))

    def _mask(self, n_new: int, n_all: int, like: torch.Tensor):
        """Return what keeps new tokens from later ones: on CUDA a form that flash attention takes, else a table."""
        # On AMD's GPUs, where PyTorch's device is "cuda" too, that form may mean the oldest keys instead of the newest.
        if like.device.type == "cuda" and torch.version.hip is None:
            return causal_lower_right(n_new, n_all)
        key = n_new, n_all, like.device
        if key not in self._masks:  # the same in all layers; numbers, as attention would make of truth values
            mask = self._masks[key] = like.new_full((n_new, n_all), 0.0)
            mask[:, n_all - n_new :] = like.new_full((n_new, n_new), -torch.inf).triu_(1)
        return self._masks[key]


def run(
    module: PreTrainedModel, token_ids: torch.Tensor, positions: torch.Tensor, stream_cache, **inputs
) -> torch.Tensor:
    """Run the backbone's own forward pass over a packed sequence.

    Args:
        module: the model's body, or its language model where there is nothing to see.
        token_ids: (tokens,).
        positions: (3, tokens).
        stream_cache: what the layers attend to, such as `PackedBatch`.
        **inputs: patches and grids, as the body takes them.

    Returns:
        Hidden states of shape (tokens, hidden).
    """
    device = module.get_input_embeddings().weight.device
    return module(
        input_ids=to_device(token_ids, device)[None],
        position_ids=to_device(positions, device)[:, None],
        attention_mask=torch.zeros(1, 1, 1, 1, device=device),  # with four dimensions: no mask is made
        use_cache=False,
        stream_cache=stream_cache,
        **inputs,
    ).last_hidden_state[0]
