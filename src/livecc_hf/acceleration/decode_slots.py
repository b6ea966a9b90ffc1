"""Decode steps of several streams in one KV cache pool: which slots tokens are written to and which keys they see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from livecc_hf.modeling.kv_cache import KVCachePool
from livecc_hf.modeling.transfer import to_device

_KEYS_STEP = 256  # the number of keys attended to is a multiple of this, so that operations have few shapes


class DecodeSlots:
    """The first slots of a KV cache pool, in decode steps that run one token for some of them.

    The number of tokens in each slot is data, so that every step has the same shapes. Slots that are not decoded write
    to the position after the capacity, which is never read, and their results are dropped.

    Args:
        memory: the pool; the caches of its streams hold tokens.
        n_tokens: most tokens that a stream will hold.

    Attributes:
        layers: the pool's `layers`; the pool must not grow during the steps.
        n_used: number of slots that are computed.
    """

    def __init__(self, memory: KVCachePool, n_tokens: int):
        memory.reserve_all(n_tokens)
        # Not the pool itself: it may hold a step that holds this object, a cycle that only the garbage collector frees.
        self.layers, self._capacity = memory.layers, memory.capacity
        self._on: dict[torch.device, _SlotState] = {}
        for layer, (keys, _) in enumerate(self.layers):
            if keys.device not in self._on:
                self._on[keys.device] = _SlotState(keys, self._capacity, layer)
        self.n_used = self._n_keys = 0

    @property
    def lengths(self) -> list[torch.Tensor]:
        """Tokens in each slot, one tensor for each device: the only state that a step changes, besides the caches."""
        return [state.lengths for state in self._on.values()]

    def begin(self, slots: Sequence[int], lengths: Sequence[int], n_tokens: int, n_rows: int | None = None) -> None:
        """Prepare the next steps.

        Args:
            slots: the slots of the B streams that are decoded.
            lengths: number of tokens that each holds.
            n_tokens: most tokens that one will hold.
            n_rows: if given, :meth:`attend` gets one token for each of the first `n_rows` slots instead of for the B
                streams.
        """
        self.n_used = n_rows or max(slots) + 1
        self._n_keys = min(-(-n_tokens // _KEYS_STEP) * _KEYS_STEP, self._capacity)
        are_rows = n_rows is not None or list(slots) == list(range(self.n_used))
        for state in self._on.values():
            state.begin(slots, lengths, are_rows)

    def advance(self) -> None:
        """Count the token that each decoded stream has appended."""
        for state in self._on.values():
            state.lengths.add_(state.moves)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """As `PackedBatch.attend`, with one token for each stream."""
        n, state = self.n_used, self._on[query.device]
        query, key, value = (self._to_slots(tensor[0].transpose(0, 1), state) for tensor in (query, key, value))
        keys, values = (held[:n] for held in self.layers[layer])
        numbers, lengths = state.numbers[:n], state.lengths[:n]
        keys[numbers, :, lengths] = key.to(keys.dtype)  # autocast may have changed the dtype
        values[numbers, :, lengths] = value.to(values.dtype)
        if layer == state.first_layer:  # the same for the other layers on the device
            state.mask = self._mask(lengths, self._n_keys, keys)
        attended = self._attend(query, keys, values, state.mask, scale)
        return (attended if state.decoded is None else attended[state.decoded])[None]

    def _to_slots(self, rows: torch.Tensor, state: _SlotState) -> torch.Tensor:
        """Scatter the rows of streams (B, ...) to their slots (`n_used`, ...); zeros elsewhere."""
        if state.decoded is None:
            return rows
        return rows.new_zeros(self.n_used, *rows.shape[1:]).index_copy_(0, state.decoded, rows)

    def _mask(self, lengths: torch.Tensor, n_keys: int, keys: torch.Tensor) -> torch.Tensor:
        """Return the mask that `_attend` adds to scores: each slot sees its first `lengths` + 1 of `n_keys` keys."""
        is_later = torch.arange(n_keys, device=keys.device) > lengths[:, None]
        mask = keys.new_zeros(is_later.shape).masked_fill_(is_later, -torch.inf)
        return mask[:, None, None].repeat(1, keys.shape[1], 1, 1)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend from (slots, heads, head size) to (slots, key-value heads, tokens, head size); return like `query`."""
        keys, values = (held[:, :, : mask.shape[-1]] for held in (keys, values))
        grouped = query.reshape(len(query), keys.shape[1], -1, query.shape[-1])  # heads that share keys
        if query.device.type != "cpu":
            return scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale).reshape(query.shape)
        # With few query rows, plain matrix products are faster on a CPU than its attention kernel.
        grouped, keys, values, mask = (tensor.flatten(0, 1) for tensor in (grouped, keys, values, mask))
        scores = torch.baddbmm(mask, grouped, keys.transpose(1, 2), alpha=scale)
        return torch.bmm(scores.softmax(-1), values).reshape(query.shape)


class _SlotState:
    """The state of a pool's slots on one device.

    Args:
        keys: (slots, key-value heads, `capacity` + 1, head size) of a layer.
        capacity: the pool's; also the index to which slots write that are not decoded.
        first_layer: the first layer on the device.
    """

    def __init__(self, keys: torch.Tensor, capacity: int, first_layer: int):
        self._capacity, self.first_layer = capacity, first_layer
        self.numbers = torch.arange(len(keys), device=keys.device)
        self.lengths = torch.full_like(self.numbers, capacity)
        self.moves = torch.zeros_like(self.numbers)  # added to `lengths` after a step: 1 for decoded slots, else 0
        self.decoded: torch.Tensor | None = None  # the slot of each row; `None` if row i is slot i
        self.mask = keys.new_zeros(0)

    def begin(self, slots: Sequence[int], lengths: Sequence[int], are_rows: bool) -> None:
        """As `DecodeSlots.begin`; changes `lengths` and `moves` in place, since a CUDA graph reads their addresses."""
        device, wanted = self.numbers.device, torch.full(self.numbers.shape, self._capacity)
        wanted[list(slots)] = torch.tensor(lengths)
        self.lengths.copy_(to_device(wanted, device))
        self.moves.copy_(to_device((wanted < self._capacity).long(), device))
        self.decoded = None if are_rows else to_device(torch.tensor(slots), device)
