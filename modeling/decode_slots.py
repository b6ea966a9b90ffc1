"""Steps that decode a token of each of several streams in one KV cache pool: where tokens go, and what they see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from .kv_cache import KVCachePool
from .transfer import to_device

_KEYS_STEP = 256  # so many keys more or less are attended to: operations have few shapes


class DecodeSlots:
    """The first slots of a KV cache pool, as the layers see them in steps that decode a token of some of them.

    How many tokens each slot holds is data, so that a step has the same shapes as the one before. Slots that are not
    decoded write behind all tokens, where nobody reads, and what they compute is dropped.

    Args:
        memory: the pool; the caches of its streams hold tokens.
        n_tokens: how many tokens a stream will hold, at most.

    Attributes:
        layers: the pool's, which must not grow meanwhile.
        n_used: how many slots are computed.
    """

    def __init__(self, memory: KVCachePool, n_tokens: int):
        memory.reserve_all(n_tokens)
        # Not the pool itself, which may hold a step that holds this: both would stay until garbage is collected.
        self.layers, self._capacity = memory.layers, memory.capacity
        self._on: dict[torch.device, _SlotState] = {}
        for layer, (keys, _) in enumerate(self.layers):
            if keys.device not in self._on:
                self._on[keys.device] = _SlotState(keys, self._capacity, layer)
        self.n_used = self._n_keys = 0

    @property
    def lengths(self) -> list[torch.Tensor]:
        """How many tokens each slot holds, on each device: all that a step changes, besides adding tokens."""
        return [state.lengths for state in self._on.values()]

    def begin(self, slots: Sequence[int], lengths: Sequence[int], n_tokens: int, n_rows: int | None = None) -> None:
        """Begin with the next steps.

        Args:
            slots: of the B streams that are decoded.
            lengths: how many tokens each holds.
            n_tokens: how many it will hold, at most.
            n_rows: where tokens are not given for the B streams, but for so many slots, from the first on.
        """
        self.n_used = n_rows or max(slots) + 1
        self._n_keys = min(-(-n_tokens // _KEYS_STEP) * _KEYS_STEP, self._capacity)
        are_rows = n_rows is not None or list(slots) == list(range(self.n_used))
        for state in self._on.values():
            state.begin(slots, lengths, are_rows)

    def advance(self) -> None:
        """Go to the next token of each stream."""
        for state in self._on.values():
            state.lengths.add_(state.moves)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Add the new tokens of a layer to their slots, and attend; as `PackedBatch.attend`, with a token a stream."""
        n, state = self.n_used, self._on[query.device]
        query, key, value = (self._to_slots(tensor[0].transpose(0, 1), state) for tensor in (query, key, value))
        keys, values = (held[:n] for held in self.layers[layer])
        numbers, lengths = state.numbers[:n], state.lengths[:n]
        keys[numbers, :, lengths] = key.to(keys.dtype)  # which autocast may have changed
        values[numbers, :, lengths] = value.to(values.dtype)
        if layer == state.first_layer:  # the others have the same
            state.mask = self._mask(lengths, self._n_keys, keys)
        attended = self._attend(query, keys, values, state.mask, scale)
        return (attended if state.decoded is None else attended[state.decoded])[None]

    def _to_slots(self, rows: torch.Tensor, state: _SlotState) -> torch.Tensor:
        """Return what streams have (B, ...) at their slots, (slots, ...); zeros elsewhere."""
        if state.decoded is None:
            return rows
        return rows.new_zeros(self.n_used, *rows.shape[1:]).index_copy_(0, state.decoded, rows)

    def _mask(self, lengths: torch.Tensor, n_keys: int, keys: torch.Tensor) -> torch.Tensor:
        """Return what `_attend` adds to scores, such that slots see the first of `n_keys`, up to their newest."""
        is_later = torch.arange(n_keys, device=keys.device) > lengths[:, None]
        mask = keys.new_zeros(is_later.shape).masked_fill_(is_later, -torch.inf)
        return mask[:, None, None].repeat(1, keys.shape[1], 1, 1)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend from (slots, heads, head size) to (slots, key-value heads, tokens, head size); return as `query`."""
        keys, values = (held[:, :, : mask.shape[-1]] for held in (keys, values))
        grouped = query.reshape(len(query), keys.shape[1], -1, query.shape[-1])  # heads that share keys
        if query.device.type != "cpu":
            return scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale).reshape(query.shape)
        # For a few rows, plain products are faster than blocks of scores.
        grouped, keys, values, mask = (tensor.flatten(0, 1) for tensor in (grouped, keys, values, mask))
        scores = torch.baddbmm(mask, grouped, keys.transpose(1, 2), alpha=scale)
        return torch.bmm(scores.softmax(-1), values).reshape(query.shape)


class _SlotState:
    """What is known of the slots of a pool on one device.

    Args:
        keys: (slots, key-value heads, tokens, head size) of a layer.
        capacity: behind so many tokens nobody reads.
        first_layer: the first on the device.
    """

    def __init__(self, keys: torch.Tensor, capacity: int, first_layer: int):
        self._capacity, self.first_layer = capacity, first_layer
        self.numbers = torch.arange(len(keys), device=keys.device)
        self.lengths = torch.full_like(self.numbers, capacity)
        self.moves = torch.zeros_like(self.numbers)  # by how much the lengths grow in a step
        self.decoded: torch.Tensor | None = None  # the slots of rows, where these are not the slots
        self.mask = keys.new_zeros(0)

    def begin(self, slots: Sequence[int], lengths: Sequence[int], are_rows: bool) -> None:
        """As `DecodeSlots.begin`; addresses stay."""
        device, wanted = self.numbers.device, torch.full(self.numbers.shape, self._capacity)
        wanted[list(slots)] = torch.tensor(lengths)
        self.lengths.copy_(to_device(wanted, device))
        self.moves.copy_(to_device((wanted < self._capacity).long(), device))
        self.decoded = None if are_rows else to_device(torch.tensor(slots), device)
