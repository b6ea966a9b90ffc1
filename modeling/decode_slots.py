"""A decoding step of several streams in one KV cache pool: where their tokens go, and what these see."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .kv_cache import KVCache
from .transfer import to_device

# For so many tokens of each stream a mask is made ahead.
_SPARE = 64


class DecodeSlots:
    """The slots of several streams in one KV cache pool, for steps that decode one token of each.

    Args:
        caches: of the B streams.
    """

    def __init__(self, caches: Sequence[KVCache]):
        self._memory = caches[0].memory
        self._slots, self._lengths = [cache.slot for cache in caches], [cache.length for cache in caches]
        self._n_slots, self._n_tokens = max(self._slots) + 1, max(self._lengths) + 1
        self._is_all = self._slots == list(range(self._n_slots))
        self._on_device: dict[torch.device, torch.Tensor] = {}
        self._indices: dict[tuple, _SlotIndex] = {}

    def advance(self) -> None:
        """Go to the next token of each stream."""
        self._lengths = [length + 1 for length in self._lengths]
        self._n_tokens += 1
        if any(index.n_most < self._n_tokens for index in self._indices.values()):
            self._indices.clear()
        for index in self._indices.values():
            index.advance()

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Write the new keys and values of a layer, of shape (B, key-value heads, head size).

        Returns:
            Views of keys and values, (slots, key-value heads, tokens of the longest stream, head size), and what is
            added to scores, (slots, key-value heads, 1, tokens of the longest stream): -inf at tokens not to see.
        """
        held = self._memory.reserve(layer, self._n_tokens, keys)[:2]
        key = keys.device, keys.dtype, held[0].shape
        index = self._indices.get(key)
        if index is None:  # the same in all layers
            index = self._indices[key] = _SlotIndex(self._slots, self._lengths, held[0])
        views = []
        for whole, new in zip(held, (keys, values)):
            new = new.reshape(-1, whole.shape[-1]).to(whole.dtype)  # which autocast may have changed
            whole.view(-1, whole.shape[-1]).index_copy_(0, index.rows, new)
            views.append(whole[: self._n_slots, :, : self._n_tokens])
        return views[0], views[1], index.mask[..., : self._n_tokens]

    def to_slots(self, rows: torch.Tensor) -> torch.Tensor:
        """Return what streams have (B, ...) at their slots, (slots, ...); zeros elsewhere."""
        if self._is_all:
            return rows
        in_slots = rows.new_zeros(self._n_slots, *rows.shape[1:])
        return in_slots.index_copy_(0, self._index(rows.device), rows)

    def from_slots(self, in_slots: torch.Tensor) -> torch.Tensor:
        """Return what the streams have (B, ...) from what all slots have, (slots, ...)."""
        return in_slots if self._is_all else in_slots[self._index(in_slots.device)]

    def _index(self, device: torch.device) -> torch.Tensor:
        if device not in self._on_device:
            self._on_device[device] = to_device(torch.tensor(self._slots), device)
        return self._on_device[device]


class _SlotIndex:
    """Where in memory the next tokens go, and what they see; advanced without a copy.

    Args:
        slots: of the streams.
        lengths: tokens that each holds.
        held: (slots, key-value heads, tokens, head size) memory of a layer.

    Attributes:
        rows: of the new keys, streams before heads, in memory seen as rows of a head's size.
        mask: (slots up to the last, key-value heads, 1, `n_most`).
        n_most: the longest a stream may get.
    """

    def __init__(self, slots: Sequence[int], lengths: Sequence[int], held: torch.Tensor):
        n_slots, n_heads = max(slots) + 1, held.shape[1]
        self.n_most = -(-(max(lengths) + 1 + _SPARE) // 8) * 8  # attention on CUDA copies masks of other widths
        ends = [0] * n_slots  # other slots compute something that nobody reads
        for slot, length in zip(slots, lengths):
            ends[slot] = length
        is_later = torch.arange(self.n_most) > torch.tensor(ends)[:, None]
        mask = torch.zeros(is_later.shape, dtype=held.dtype).masked_fill_(is_later, -torch.inf)
        self.mask = to_device(mask[:, None, None].repeat(1, n_heads, 1, 1), held.device)
        first = torch.tensor(slots)[:, None] * n_heads + torch.arange(n_heads)
        at = torch.tensor(lengths)[:, None]
        self.rows, self._newest = (
            to_device((first * n_kept + at).flatten(), held.device) for n_kept in (held.shape[2], self.n_most)
        )

    def advance(self) -> None:
        """Go to the next tokens."""
        self.rows += 1
        self._newest += 1
        self.mask.view(-1).index_fill_(0, self._newest, 0)
