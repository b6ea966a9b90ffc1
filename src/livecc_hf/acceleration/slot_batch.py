"""Decode steps of several streams: those that share a KV cache pool attend in one operation per layer."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch

from livecc_hf.acceleration.decode_slots import DecodeSlots
from livecc_hf.modeling.attention import PackedBatch
from livecc_hf.modeling.transfer import to_device


class SlotBatch(PackedBatch):
    """A packed batch that is faster if several streams decode one token each in a shared pool.

    Used as a model's `packed_batch` (see `StreamingMixin`).
    """

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """As `PackedBatch.attend`."""
        if not self._shared:
            return super().attend(layer, query, key, value, scale)
        if len(self._shared) == 1 and not self._others:
            return self._slots[0].attend(layer, query, key, value, scale)
        attended = torch.empty_like(query.transpose(1, 2))
        for rows, slots in zip(self._shared_on(query.device), self._slots, strict=True):
            attended[:, rows] = slots.attend(layer, query[:, :, rows], key[:, :, rows], value[:, :, rows], scale)
        self._attend_each(self._others, attended, layer, query, key, value, scale)
        return attended

    def advance(self) -> None:
        """As `PackedBatch.advance`."""
        super().advance()
        for slots in vars(self).get("_slots", ()):
            slots.advance()

    @functools.cached_property
    def _shared(self) -> list[list[int]]:
        """Indices of the streams that decode one token each, by shared pool."""
        by_pool: dict[int, list[int]] = {}
        if all(n == 1 for n in self.n_new) and all(cache.length for cache in self.caches):
            for i, cache in enumerate(self.caches):
                by_pool.setdefault(id(cache.memory), []).append(i)
        return [rows for rows in by_pool.values() if len(rows) > 1]

    def _shared_on(self, device: torch.device) -> list[torch.Tensor]:
        """Return `_shared` as tensors on a device of the layers."""
        if device not in self._copied:  # once for all layers; lists would be copied in each, from pageable memory
            self._copied[device] = [to_device(torch.tensor(rows), device) for rows in self._shared]
        return self._copied[device]

    @functools.cached_property
    def _copied(self) -> dict[torch.device, list[torch.Tensor]]:
        return {}

    @functools.cached_property
    def _others(self) -> list[int]:
        """Indices of all other streams."""
        shared = set(itertools.chain(*self._shared))
        return [i for i in range(len(self.caches)) if i not in shared]

    @functools.cached_property  # made by the first layer: a faster decode step does not need them
    def _slots(self) -> list[DecodeSlots]:
        return [self._slots_of(rows) for rows in self._shared]

    def _slots_of(self, rows: Sequence[int]) -> DecodeSlots:
        """Return the slots of streams that share a pool."""
        caches = [self.caches[i] for i in rows]
        lengths = [cache.length for cache in caches]
        n_tokens = max(lengths) + self.n_steps
        slots = DecodeSlots(caches[0].memory, n_tokens)
        slots.begin([self.slots[i] for i in rows], lengths, n_tokens)
        return slots
