"""The KV caches of streams: preallocated, truncated at the end, evicted from in the middle.

Nothing is concatenated per token: keys and values are written into memory that is reserved. Where a window bounds the
context it is reserved at once, else it grows in steps. Streams that are decoded together may share a pool, so that
one operation serves all of them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .transfer import to_device

# Memory is reserved in steps of this many tokens, and grows by half, so that each token is copied O(1) times.
_STEP = 256
_GROWTH = 1.5
_MOST_EXPECTED = 16_384  # more is reserved only as it is needed
# Of keys that move together: as many as a CPU's cache holds, or few enough for memory elsewhere.
_ELEMENTS_ON_CPU = 1 << 19
_ELEMENTS_ELSEWHERE = 1 << 26
_BY_RUN = ("cpu",)  # where tokens move a run at a time: elsewhere launches cost more than memory

_Run = tuple[int, int, int]  # consecutive tokens, first and end, and how far the position of each goes back


class KVCachePool:
    """Memory for the KV caches of some streams, one slot each; grows as they do.

    Args:
        devices: of each layer of the language model; consecutive layers on one device lie in one tensor.
        is_evictable: whether tokens may be dropped from the middle (`KVCache.evict`).
        n_expected: how many streams will share it. On CUDA there is memory for them all from the start, since one
            more slot would copy all others.

    Attributes:
        layers: keys and values of all slots in each layer, (slots, key-value heads, `capacity` + 1, head size); what is
            written behind the capacity is never read. Another list once memory has grown.
        step: a faster way to decode that is bound to `layers`.
    """

    def __init__(self, devices: Sequence[torch.device], is_evictable: bool = False, n_expected: int = 1):
        self.is_evictable = is_evictable
        self._n_expected = n_expected
        self._n_tokens_expected = 0
        self._groups = [_LayerGroup(len(list(run)), is_evictable) for _, run in itertools.groupby(devices)]
        self._group_of = [(group, i) for group in self._groups for i in range(group.n_layers)]
        self._free: list[int] = []
        self._n_slots = 0
        self._lock = threading.Lock()  # streams come and go while others are generated
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.step: Any = None

    @property
    def capacity(self) -> int:
        """Tokens of a stream for which there is memory."""
        return max(group.capacity for group in self._groups)

    @property
    def n_bytes(self) -> int:
        """Bytes of memory reserved."""
        return sum(held.numel() * held.element_size() for group in self._groups for held in group.held)

    def take_slot(self) -> int:
        """Take the lowest free slot for a stream, and return its number."""
        with self._lock:
            if self._free:
                slot = min(self._free)
                self._free.remove(slot)
                return slot
            self._n_slots += 1
            return self._n_slots - 1

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""
        with self._lock:
            self._free.append(slot)

    def expect(self, n_tokens: int) -> None:
        """Make room for streams of so many tokens at once when memory grows next, where there is some."""
        self._n_tokens_expected = max(self._n_tokens_expected, min(n_tokens, _MOST_EXPECTED))

    def reserve(self, layer: int, n_tokens: int, like: torch.Tensor) -> Sequence[torch.Tensor]:
        """Make room for streams of `n_tokens` whose keys (..., key-value heads, tokens, head size) are like these.

        Returns:
            Keys, values and, where they are held, keys as they were first read, of all slots in a layer: (slots,
            key-value heads, capacity + 1, head size) each.
        """
        group, i = self._group_of[layer]
        self._reserve(group, n_tokens, like)
        return group.layers[i]

    def reserve_all(self, n_tokens: int) -> None:
        """Make room for streams of `n_tokens` in all layers, each of which has some already."""
        for group in self._groups:
            self._reserve(group, n_tokens, group.held[0][0])

    def _reserve(self, group: _LayerGroup, n_tokens: int, like: torch.Tensor) -> None:
        if group.capacity >= n_tokens and group.n_slots >= self._n_slots:
            return
        try:
            self._grow(group, n_tokens, like)
        except RuntimeError:  # no memory
            if self._n_tokens_expected <= n_tokens:
                raise
            self._n_tokens_expected = 0
            self._grow(group, n_tokens, like)

    def _grow(self, group: _LayerGroup, n_tokens: int, like: torch.Tensor) -> None:
        capacity = self.capacity  # what another group has, so that all have the same
        if capacity < n_tokens:
            wanted = max(n_tokens, int(capacity * _GROWTH), self._n_tokens_expected)
            capacity = -(-wanted // _STEP) * _STEP
        n_expected = self._n_expected if like.device.type == "cuda" else 1
        with self._lock:
            group.grow(max(self._n_slots, n_expected, group.n_slots), capacity, like)
            self.layers = [(keys, values) for group in self._groups for keys, values, *_ in group.layers]

    def clear_slot(self, slot: int, first: int = 0) -> None:
        """Zero a slot from a token on.

        What is masked still counts 0 times itself, which is no number where it is none (NaN).
        """
        with self._lock:
            for parts in self.slot_tensors(slot):
                for held in parts:
                    held[:, :, first:].zero_()

    def slot_tensors(self, slot: int) -> Iterator[list[torch.Tensor]]:
        """Yield keys, values and, where held, keys as first read of a slot.

        Each is of shape (layers, key-value heads, capacity + 1, head size), a few layers at a time, so that what is
        made of them stays small.
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
        # Keys, values, keys as first read: (layers, slots, key-value heads, capacity, head size); none at first.
        self.held: list[torch.Tensor] = []
        self.layers: list[tuple[torch.Tensor, ...]] = []  # views of them, for each layer

    @torch.inference_mode(False)  # the memory outlives the mode in which it was needed
    def grow(self, n_slots: int, capacity: int, like: torch.Tensor) -> None:
        shape = (
            self.n_layers,
            n_slots,
            like.shape[-3],
            capacity + 1,
            like.shape[-1],
        )  # one more: see `KVCachePool.layers`
        # In float32 a key may be rotated each time it moves: after a hundred times it is off by 1e-6.
        n_kinds = 3 if self._is_evictable and like.dtype.itemsize < 4 else 2
        # Zeros: slots where nothing was written take part in operations over all slots, at weight 0.
        grown = [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(n_kinds)]
        for new, old in zip(grown, self.held):
            new[:, : self.n_slots, :, : self.capacity + 1] = old
        self.held, self.n_slots, self.capacity = grown, n_slots, capacity
        self.layers = list(zip(*(tensor.unbind() for tensor in grown)))


class KVCache:
    """Keys and values of the first `length` tokens of a stream, layer by layer.

    Args:
        memory: where they are. If tokens are dropped from the middle (:meth:`evict`), keys of less than 32 bits are
            also kept as they were first read: each move starts from these, so that no rounding adds up however often a
            key moves.

    Attributes:
        length: tokens held; every layer holds as many once a forward pass is complete.
        slot: the stream's slot in the pool.
    """

    def __init__(self, memory: KVCachePool):
        self.memory = memory
        self.slot = memory.take_slot()
        self.length = 0
        self._layers = memory.layers
        self._views: dict[int, list[torch.Tensor]] = {}  # by layer: the slot's keys and values in it
        # Where keys are kept as first read: which are, and how far each has moved since.
        self._shifts: list[_Run] = []

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens of a layer behind those held; `advance` makes them count.

        Args:
            layer: the layer's index.
            keys: (1, key-value heads, new tokens, head size), rotated.
            values: of the same shape.

        Returns:
            Views of keys and values, old and new, of shape (1, key-value heads, `length` + new tokens, head size).
        """
        n = keys.shape[2]
        end = self.length + n
        if self._layers is not self.memory.layers:  # the memory has grown
            self._layers, self._views = self.memory.layers, {}
        views = self._views.get(layer)
        if views is None or end >= views[0].shape[2]:
            held = self.memory.reserve(layer, end, keys)
            views = self._views[layer] = [tensor[self.slot : self.slot + 1] for tensor in held[:2]]
        held_keys, held_values = views
        held_keys.narrow(2, self.length, n).copy_(keys)
        held_values.narrow(2, self.length, n).copy_(values)
        return held_keys.narrow(2, 0, end), held_values.narrow(2, 0, end)

    def advance(self, n_tokens: int) -> None:
        """Count tokens that every layer has appended."""
        self.length += n_tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens from index `length` on."""
        self.length = min(self.length, length)
        self._shifts = _cut(self._shifts, 0, self.length)

    def release(self) -> None:
        """Give the slot back, empty; the cache cannot be used after it."""
        self.truncate(0)
        self.memory.clear_slot(self.slot)  # NaN there would spoil what the next stream in the slot attends to
        self.memory.free_slot(self.slot)

    def evict(self, kept: Sequence[_Run], inv_freq: torch.Tensor) -> None:
        """Evict all tokens but some, and shift the keys of those to earlier positions.

        Keys are held rotated; rotations compose, so a key at position p becomes the key at p - d by one more rotation
        by -d (RoFormer, arXiv 2104.09864, section 3.2.2; with Qwen2-VL's three positions, by -d in each of them).

        Args:
            kept: the tokens to keep, in order, as (first, end, shift): how far the positions of each go back; those
                before the first dropped one by 0.
            inv_freq: (head size / 2,) the rotary embedding's frequencies.
        """
        if not self.memory.is_evictable:
            raise ValueError("tokens can only be dropped from the middle of a cache whose memory is_evictable")
        n_saved = self._shifts[-1][1] if self._shifts else 0
        held = [*self._shifts, (n_saved, self.length, 0)]
        moving: list[slice] = []
        shifts: list[_Run] = []  # of what is kept, where it will be
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
        self.length, self._shifts = 0, []  # until every token has moved
        parts = list(self.memory.slot_tensors(self.slot))
        for keys, _, *original_keys in parts:
            for originals in original_keys:
                originals[:, :, new] = keys[:, :, new]
        devices = {part[0].device for part in parts}
        by_run = all(device.type in _BY_RUN for device in devices)
        for runs in [[run] for run in moving] if by_run else [moving]:
            to = slice(n_still, n_still + sum(run.stop - run.start for run in runs))
            n_still, turning = to.stop, _cut(shifts, to.start, to.stop)
            rotations = {device: _rotation_of(turning, inv_freq, device) for device in devices}
            for part in parts:
                _move(part, runs, to, *rotations[part[0].device])
        self.length = n_kept
        self._shifts = shifts if len(parts[0]) == 3 else []


def _cut(runs: Sequence[_Run], first: int, end: int) -> list[_Run]:
    """Return the parts of runs between two tokens."""
    parts = ((max(begin, first), min(until, end), shift) for begin, until, shift in runs)
    return [part for part in parts if part[0] < part[1]]


def _rotation_of(
    runs: Sequence[_Run], inv_freq: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what :func:`rotate` takes for the tokens of runs, one after the other, (tokens or 1, head size) each."""
    described = torch.tensor([[end - first for first, end, _ in runs], [shift for _, _, shift in runs]])
    lengths, shifts = to_device(described, device)
    tables = torch.stack(rotation(-shifts[:, None] * to_device(inv_freq, device)))
    if len(runs) > 1:
        tables = tables.repeat_interleave(lengths, 1, output_size=runs[-1][1] - runs[0][0])
    cos, sin = tables
    return cos, sin


def _move(part: Sequence[torch.Tensor], runs: Sequence[slice], to: slice, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Move tokens of some layers, and rotate their keys; in a few operations, however many tokens and runs there are.

    Args:
        part: of `KVCachePool.slot_tensors`: keys, values and, where held, keys as first read.
        runs: the tokens.
        to: where they stand after it.
        cos, sin: as :func:`rotate` takes them; they turn keys as first read, where those are held.
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
    """Return what :func:`rotate` takes for angles (..., head size / 2): cosine and sine, (..., head size) each."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Apply a rotary embedding to the last dimension of `x`, halves paired as in Qwen2-VL.

    Args:
        x: (..., head size).
        cos: cosines of the angles, for both halves.
        sin: sines, those for the first half negated.
        out: where the result goes; may overlap `x`.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin, out=out)
