"""KV caches of streams: preallocated, truncated at the end, evicted from in the middle.

Keys and values are written into reserved memory; nothing is concatenated per token. If a window bounds the context,
all of its memory is reserved at once; otherwise it grows in steps. Streams that are decoded together can share a pool,
so that one operation serves all of them.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .transfer import to_device

# Capacity is a multiple of _STEP tokens and grows by half, so that each token is copied O(1) times.
_STEP = 256
_GROWTH = 1.5
_MOST_EXPECTED = 16_384  # tokens reserved in advance; more only when needed
# Key elements shifted at once: what fits a CPU's cache, or little enough temporary memory on other devices.
_ELEMENTS_ON_CPU = 1 << 19
_ELEMENTS_ELSEWHERE = 1 << 26
_BY_RUN = ("cpu",)  # devices that shift one run at a time; on others kernel launches cost more than the extra copy

_Run = tuple[int, int, int]  # consecutive tokens (first, end), and by how much their positions decrease


class KVCachePool:
    """Memory for the KV caches of several streams, one slot each; grows with them.

    Args:
        devices: the device of each layer of the language model; consecutive layers on one device share a tensor.
        is_evictable: whether tokens may be evicted from the middle (`KVCache.evict`).
        n_expected: how many streams will share it. On CUDA all their slots are allocated at the start, because adding
            a slot later copies all others.

    Attributes:
        layers: (keys, values) of each layer for all slots, each (slots, key-value heads, `capacity` + 1, head size).
            The position after the last is written to but never read. Growing replaces this list.
        views: by layer and slot, its keys and values in `layers`; filled by the caches.
        step: a faster decode step that is bound to `layers`, or `None`.
    """

    def __init__(self, devices: Sequence[torch.device], is_evictable: bool = False, n_expected: int = 1):
        self.is_evictable = is_evictable
        self._n_expected = n_expected
        self._n_tokens_expected = 0
        self._groups = [_LayerGroup(len(list(run)), is_evictable) for _, run in itertools.groupby(devices)]
        self._group_of = [(group, i) for group in self._groups for i in range(group.n_layers)]
        self._free: list[int] = []  # a heap
        self._n_slots = 0
        self._lock = threading.Lock()  # streams join and leave while others generate
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.views: dict[tuple[int, int], list[torch.Tensor]] = {}
        self.step: Any = None

    @property
    def capacity(self) -> int:
        """Tokens per slot for which memory is reserved."""
        return max(group.capacity for group in self._groups)

    def take_slot(self) -> int:
        """Reserve the lowest free slot and return its number."""
        with self._lock:
            if self._free:
                return heapq.heappop(self._free)
            self._n_slots += 1
            return self._n_slots - 1

    def free_slot(self, slot: int) -> None:
        """Return a slot to the pool."""
        with self._lock:
            heapq.heappush(self._free, slot)

    def expect(self, n_tokens: int) -> None:
        """Let the next growth reserve at least this many tokens per slot, if the device has the memory."""
        self._n_tokens_expected = max(self._n_tokens_expected, min(n_tokens, _MOST_EXPECTED))

    def reserve(self, layer: int, n_tokens: int, like: torch.Tensor) -> Sequence[torch.Tensor]:
        """Reserve `n_tokens` per slot in a layer, and return the layer's tensors.

        Args:
            layer: the layer's index.
            n_tokens: tokens per slot.
            like: keys (..., key-value heads, tokens, head size) with the dtype and device of the cache.

        Returns:
            Keys, values and, if the pool saves them, unshifted keys of all slots: (slots, key-value heads,
            capacity + 1, head size) each.
        """
        group, i = self._group_of[layer]
        self._reserve(group, n_tokens, like)
        return group.layers[i]

    def reserve_all(self, n_tokens: int) -> None:
        """Reserve `n_tokens` per slot in all layers; each must hold tokens already."""
        for group in self._groups:
            self._reserve(group, n_tokens, group.held[0][0])

    def _reserve(self, group: _LayerGroup, n_tokens: int, like: torch.Tensor) -> None:
        if group.capacity >= n_tokens and group.n_slots >= self._n_slots:
            return
        try:
            self._grow(group, n_tokens, like)
        except RuntimeError:  # out of memory: reserve only what is needed now
            if self._n_tokens_expected <= n_tokens:
                raise
            self._n_tokens_expected = 0
            self._grow(group, n_tokens, like)

    def _grow(self, group: _LayerGroup, n_tokens: int, like: torch.Tensor) -> None:
        capacity = self.capacity  # the largest of all groups, so that all get the same
        if capacity < n_tokens:
            wanted = max(n_tokens, int(capacity * _GROWTH), self._n_tokens_expected)
            capacity = -(-wanted // _STEP) * _STEP
        n_expected = self._n_expected if like.device.type == "cuda" else 1
        with self._lock:
            group.grow(max(self._n_slots, n_expected, group.n_slots), capacity, like)
            self.layers = [(keys, values) for group in self._groups for keys, values, *_ in group.layers]
            self.views, self.step = {}, None  # they hold the memory from before

    def clear_slot(self, slot: int, first: int = 0) -> None:
        """Zero a slot's tokens from index `first` on.

        Masked entries still enter the sum as 0 * value, which is NaN if a stale value is NaN.
        """
        with self._lock:
            for parts in self.slot_tensors(slot):
                for held in parts:
                    held[:, :, first:].zero_()

    def slot_tensors(self, slot: int) -> Iterator[list[torch.Tensor]]:
        """Yield a slot's keys, values and, if saved, unshifted keys, for a few layers at a time.

        Each has shape (layers, key-value heads, capacity + 1, head size); few layers keep temporary copies small.
        """
        for group in self._groups:
            if slot < group.n_slots:
                held = [tensor[:, slot] for tensor in group.held]
                n_elements = _ELEMENTS_ON_CPU if held[0].device.type == "cpu" else _ELEMENTS_ELSEWHERE
                n_layers = max(n_elements // held[0][0].numel(), 1)
                yield from (list(part) for part in zip(*(tensor.split(n_layers) for tensor in held)))


class _LayerGroup:
    """Consecutive layers on one device."""

    def __init__(self, n_layers: int, is_evictable: bool):
        self.n_layers = n_layers
        self.n_slots = self.capacity = 0
        self._is_evictable = is_evictable
        # Keys, values, unshifted keys: (layers, slots, key-value heads, capacity + 1, head size); empty at first.
        self.held: list[torch.Tensor] = []
        self.layers: list[tuple[torch.Tensor, ...]] = []  # their views, layer by layer

    @torch.inference_mode(False)  # the memory outlives the caller's mode
    def grow(self, n_slots: int, capacity: int, like: torch.Tensor) -> None:
        shape = self.n_layers, n_slots, like.shape[-3], capacity + 1, like.shape[-1]
        like = self.held[0] if self.held else like  # keeps the dtype, with which unshifted keys are saved or not
        # In float32, keys can be rotated again at each shift: a hundred shifts add an error of 1e-6.
        n_kinds = 3 if self._is_evictable and like.dtype.itemsize < 4 else 2
        # Zeros: operations over all slots read unwritten slots too, at weight 0.
        grown = [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(n_kinds)]
        for new, old in zip(grown, self.held):
            new[:, : self.n_slots, :, : self.capacity + 1] = old
        self.held, self.n_slots, self.capacity = grown, n_slots, capacity
        self.layers = list(zip(*(tensor.unbind() for tensor in grown)))


class KVCache:
    """Keys and values of a stream's tokens, in one slot of a pool.

    In an evictable pool, keys of less than 32 bits are also saved as they were before any shift. Each shift starts from
    these, so that rounding errors do not add up.

    Args:
        memory: the pool.

    Attributes:
        length: tokens held; every layer holds this many once a forward pass is complete.
    """

    def __init__(self, memory: KVCachePool):
        self.memory = memory
        self.length = 0
        self._shifts: list[_Run] = []  # the tokens whose unshifted keys are saved, and their total shift

    @functools.cached_property
    def slot(self) -> int:
        """The stream's slot, taken by its first batch: until a batch ends, streams that left it still hold theirs."""
        return self.memory.take_slot()

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens of a layer after the `length` tokens held; :meth:`advance` counts them later.

        Args:
            layer: the layer's index.
            keys: (1, key-value heads, new tokens, head size), rotated.
            values: of the same shape.

        Returns:
            Views of all keys and values, each (1, key-value heads, `length` + new tokens, head size).
        """
        n = keys.shape[2]
        end = self.length + n
        views = self.memory.views.get((layer, self.slot))
        if views is None or end >= views[0].shape[2]:
            held = self.memory.reserve(layer, end, keys)
            views = self.memory.views[layer, self.slot] = [tensor[self.slot : self.slot + 1] for tensor in held[:2]]
        held_keys, held_values = views
        held_keys.narrow(2, self.length, n).copy_(keys)
        held_values.narrow(2, self.length, n).copy_(values)
        return held_keys.narrow(2, 0, end), held_values.narrow(2, 0, end)

    def advance(self, n_tokens: int) -> None:
        """Count tokens that every layer has appended."""
        self.length += n_tokens

    def truncate(self, length: int) -> None:
        """Drop all tokens from index `length` on."""
        self.length = min(self.length, length)
        self._shifts = _cut(self._shifts, 0, self.length)

    def release(self) -> None:
        """Return the slot, if it was taken, cleared to the pool; the cache cannot be used afterwards."""
        self.truncate(0)
        if "slot" in vars(self):
            self.memory.clear_slot(self.slot)  # stale NaNs would leak into the next stream in this slot
            self.memory.free_slot(self.slot)

    def evict(self, kept: Sequence[_Run], inv_freq: torch.Tensor) -> None:
        """Evict all tokens except `kept`, and shift the keys of these to earlier positions.

        Cached keys are rotated, and rotations compose: one more rotation by -d shifts a key from position p to
        p - d (RoFormer, arXiv 2104.09864, section 3.2.2; for M-RoPE, by -d on each of the three axes).

        Args:
            kept: the tokens to keep, in order, as (first, end, shift): their positions decrease by `shift`, which is 0
                before the first evicted token.
            inv_freq: (head size / 2,) the rotary embedding's frequencies.

        Raises:
            ValueError: if the pool is not evictable.
        """
        if not self.memory.is_evictable:
            raise ValueError("this cache cannot evict tokens: its KVCachePool was made without is_evictable=True")
        n_saved = self._shifts[-1][1] if self._shifts else 0
        held = [*self._shifts, (n_saved, self.length, 0)]
        moving: list[slice] = []
        shifts: list[_Run] = []  # of the kept tokens, at their new indices
        n_kept = n_still = 0
        for first, end, more in kept:
            back = first - n_kept
            shifts += [(begin - back, until - back, shift + more) for begin, until, shift in _cut(held, first, end)]
            n_kept = end - back
            if back:
                moving.append(slice(first, end))
            else:
                n_still = n_kept
        if not moving:
            self.truncate(n_kept)
            return
        new = slice(n_saved, self.length)
        self.length, self._shifts = 0, []  # lets `StreamState.check` notice an interrupted eviction
        parts = list(self.memory.slot_tensors(self.slot))
        for keys, _, *original_keys in parts:
            for originals in original_keys:
                originals[:, :, new] = keys[:, :, new]
        devices = {part[0].device for part in parts}
        by_run = all(device.type in _BY_RUN for device in devices)
        for runs in [[run] for run in moving] if by_run else [moving]:
            to = slice(n_still, n_still + sum(run.stop - run.start for run in runs))
            n_still, shifted = to.stop, _cut(shifts, to.start, to.stop)
            rotations = {device: _rotation_of(shifted, inv_freq, device) for device in devices}
            for part in parts:
                _move(part, runs, to, *rotations[part[0].device])
        self.length = n_kept
        self._shifts = shifts if len(parts[0]) == 3 else []


def _cut(runs: Sequence[_Run], first: int, end: int) -> list[_Run]:
    """Return the parts of runs that lie within the tokens `first` to `end`."""
    parts = ((max(begin, first), min(until, end), shift) for begin, until, shift in runs)
    return [part for part in parts if part[0] < part[1]]


def _rotation_of(
    runs: Sequence[_Run], inv_freq: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `cos` and `sin` of :func:`rotate` that shift the tokens of `runs`, each (tokens or 1, head size)."""
    lengths_and_shifts = torch.tensor([[end - first for first, end, _ in runs], [shift for _, _, shift in runs]])
    lengths, shifts = to_device(lengths_and_shifts, device)
    tables = torch.stack(rotation(-shifts[:, None] * to_device(inv_freq, device)))
    if len(runs) > 1:
        tables = tables.repeat_interleave(lengths, 1, output_size=runs[-1][1] - runs[0][0])
    cos, sin = tables
    return cos, sin


def _move(part: Sequence[torch.Tensor], runs: Sequence[slice], to: slice, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Copy the tokens of `runs` to indices `to` in some layers, and rotate their keys, in a few operations for all.

    Args:
        part: keys, values and, if saved, unshifted keys; an item of `KVCachePool.slot_tensors`.
        runs: the tokens' present indices.
        to: their new indices.
        cos, sin: see :func:`rotate`; applied to the unshifted keys if saved, else to the keys.
    """
    keys, values, *original_keys = part
    if original_keys:
        moved = original_keys[0][:, :, to] = _copied(original_keys[0], runs)
    elif len(runs) == 1:
        moved = keys[:, :, runs[0]]
    else:
        moved = _copied(keys, runs)
    rotate(moved, cos, sin, out=keys[:, :, to])
    values[:, :, to] = _copied(values, runs)


def _copied(held: torch.Tensor, runs: Sequence[slice]) -> torch.Tensor:
    return torch.cat([held[:, :, run] for run in runs], dim=2)


def rotation(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `cos` and `sin` of :func:`rotate`, each (..., head size), for angles (..., head size / 2)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Apply a rotary embedding to the last dimension of `x`; element i is paired with i + head size / 2.

    Args:
        x: (..., head size).
        cos: cosines of the angles, once for each half.
        sin: sines of the angles, negated in the first half.
        out: where to write the result; may overlap `x`.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin, out=out)
