"""The KV caches of streams: preallocated, truncated at the end, evicted from in the middle.

Nothing is concatenated per token: keys and values are written into memory that is reserved. Where a window bounds the
context it is reserved at once, else it grows in steps. Streams that are decoded together may share a pool, so that
one operation serves all of them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

# Memory is reserved in steps of this many tokens, and grows by half, so that each token is copied O(1) times.
_STEP = 256
_GROWTH = 1.5
_MOST_EXPECTED = 16_384  # more is reserved only as it is needed
# Of keys that move together: as many as a CPU's cache holds, or few enough for memory elsewhere.
_ELEMENTS_ON_CPU = 1 << 19
_ELEMENTS_ELSEWHERE = 1 << 24


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
        self._shift = torch.zeros(0, dtype=torch.long)  # of the first tokens; the others have not moved

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
        self._shift = self._shift[: self.length]

    def release(self) -> None:
        """Give the slot back, empty; the cache cannot be used after it."""
        self.truncate(0)
        self.memory.clear_slot(self.slot)  # NaN there would spoil what the next stream in the slot attends to
        self.memory.free_slot(self.slot)

    def evict(self, kept: Sequence[KeptRun], inv_freq: torch.Tensor) -> None:
        """Evict all tokens but some, and shift the keys of those to earlier positions.

        Keys are held rotated; rotations compose, so a key at position p becomes the key at p - d by one more rotation
        by -d (RoFormer, arXiv 2104.09864, section 3.2.2; with Qwen2-VL's three positions, by -d in each of them).

        Args:
            kept: the tokens to keep, in order; those before the first dropped one move back by 0.
            inv_freq: (head size / 2,) the rotary embedding's frequencies.
        """
        if not self.memory.is_evictable:
            raise ValueError("tokens can only be dropped from the middle of a cache whose memory is_evictable")
        parts = list(self.memory.slot_tensors(self.slot))
        frequencies, n_kept = tuple(inv_freq.tolist()), 0
        shift = self._save_original_keys(parts)
        self.length = 0  # until every token has moved
        devices = {part[0].device for part in parts}  # layers may be on several
        for run in kept:  # each moves forward, over tokens that are evicted or have moved already
            source, to = slice(run.first, run.end), slice(n_kept, n_kept + run.end - run.first)
            if shift is not None:
                shift[to] = shift[source] + run.shift
            if run.first > n_kept:
                if shift is None:
                    angles = _shift_rotation(run.shift, frequencies)
                else:  # from where they were first read
                    angles = rotation(-shift[to, None] * torch.tensor(frequencies))
                rotations = {device: tuple(t.to(device) for t in angles) for device in devices}
                for part in parts:
                    _move(part, source, to, *rotations[part[0].device])
            n_kept = to.stop
        self.length = n_kept
        if shift is not None:
            self._shift = shift[:n_kept]

    def _save_original_keys(self, parts: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor | None:
        """Note keys that have not moved yet; return how far each has, or `None` where keys are held once."""
        if all(len(part) == 2 for part in parts):
            return None
        new = slice(len(self._shift), self.length)
        for keys, _, original_keys in parts:
            original_keys[:, :, new] = keys[:, :, new]
        return torch.cat([self._shift, torch.zeros(new.stop - new.start, dtype=torch.long)])


class KeptRun(NamedTuple):
    """Consecutive tokens of a cache that stay.

    Attributes:
        first, end: which.
        shift: how far the position of each goes back.
    """

    first: int
    end: int
    shift: int


@lru_cache(maxsize=256)  # turns have few lengths
@torch.inference_mode(False)  # it outlives the caller's mode
def _shift_rotation(shift: int, inv_freq: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return rotation(-shift * torch.tensor(inv_freq))


def _move(part: Sequence[torch.Tensor], source: slice, to: slice, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Move tokens of some layers, see `KVCachePool.slot_tensors`, and rotate their keys."""
    keys, values, *original_keys = part
    if original_keys:
        moved = original_keys[0][:, :, source].clone()
        original_keys[0][:, :, to] = moved
        keys[:, :, to] = rotate(moved.float(), cos, sin)
    else:
        rotate(keys[:, :, source], cos, sin, out=keys[:, :, to])
    values[:, :, to] = values[:, :, source].clone()


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
