"""The keys and values of streams: preallocated, cut at the end, thinned out in the middle.

Nothing is concatenated per token: what is read is written into memory that is there, which grows in steps while
the context grows and stays as it is once a window bounds it. Streams that speak together may share the memory, so
that one operation serves all of them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

# Memory is reserved in steps of this many tokens, and grows by half, so that each token is copied O(1) times.
_STEP = 256
_GROWTH = 1.5
# For so many tokens of each stream a mask is made ahead.
_SPARE = 64
# Of keys that move together: as many as a processor's cache holds, or few enough for memory elsewhere.
_ELEMENTS_ON_CPU = 1 << 19
_ELEMENTS_ELSEWHERE = 1 << 24


class CacheMemory:
    """Memory for the keys and values of some streams; grows as they do.

    Args:
        devices: of each layer of the language model; consecutive layers on one device lie in one tensor.
        is_movable: whether tokens may be dropped from the middle (`StreamCache.keep`).
        n_expected: how many streams will share it. On CUDA there is memory for them all from the start, since a place
            more would copy all others.

    Attributes:
        step: a decoding step bound to these addresses, and what must stay the same for it; see `fixed_step`.
    """

    def __init__(self, devices: Sequence[torch.device], is_movable: bool = False, n_expected: int = 1):
        self.is_movable = is_movable
        self._n_expected = n_expected
        self._groups = [_LayerGroup(len(list(run)), is_movable) for _, run in itertools.groupby(devices)]
        self._group_of = [(group, i) for group in self._groups for i in range(group.n_layers)]
        self._free: list[int] = []
        self._n_slots = 0
        self._lock = threading.Lock()  # streams come and go while others are generated
        self.step: tuple | None = None

    @property
    def capacity(self) -> int:
        """Tokens of a stream for which there is memory."""
        return max(group.capacity for group in self._groups)

    @property
    def n_bytes(self) -> int:
        """Bytes of memory reserved."""
        return sum(held.numel() * held.element_size() for group in self._groups for held in group.held)

    @property
    def n_layers(self) -> int:
        """Layers of the language model."""
        return len(self._group_of)

    @property
    def n_places(self) -> int:
        """Places for which there is memory."""
        return min(group.n_slots for group in self._groups)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the memory is; others after it has grown."""
        return tuple(held.data_ptr() for group in self._groups for held in group.held)

    def take_slot(self) -> int:
        """Return the number of a stream's place, the lowest that is free."""
        with self._lock:
            if self._free:
                slot = min(self._free)
                self._free.remove(slot)
                return slot
            self._n_slots += 1
            return self._n_slots - 1

    def free_slot(self, slot: int) -> None:
        """Give a place back."""
        with self._lock:
            self._free.append(slot)

    def reserve(self, layer: int, n_tokens: int, like: torch.Tensor) -> Sequence[torch.Tensor]:
        """Make room for streams of `n_tokens` whose keys (tokens, key-value heads, head size) are like these.

        Returns:
            Keys, values and, where they are held, keys as they were first read, of all places in a layer: (places,
            key-value heads, capacity + 1, head size) each.
        """
        group, i = self._group_of[layer]
        if group.capacity < n_tokens or group.n_slots < self._n_slots:
            # What another group has, so that all have the same.
            capacity = self.capacity
            if capacity < n_tokens:
                capacity = -(-max(n_tokens, int(capacity * _GROWTH)) // _STEP) * _STEP
            n_expected = self._n_expected if like.device.type == "cuda" else 1
            with self._lock:
                group.grow(max(self._n_slots, n_expected, group.n_slots), capacity, like)
        return group.layers[i]

    def reserve_all(self, n_tokens: int) -> None:
        """Make room for streams of `n_tokens` in all layers, each of which has some already."""
        for layer, (group, _) in enumerate(self._group_of):
            self.reserve(layer, n_tokens, group.held[0][0, 0].transpose(0, 1))

    def of_layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of all places, (places, key-value heads, `capacity` + 1, head size) each.

        What is written behind the capacity is never read.
        """
        group, i = self._group_of[layer]
        return group.layers[i][:2]

    def clear_place(self, slot: int, first: int = 0) -> None:
        """Make what a place holds 0, from a token on.

        What is masked still counts 0 times itself, which is no number where it is none (NaN).
        """
        with self._lock:
            if slot < self.n_places:
                for parts in self.of_place(slot):
                    for held in parts:
                        held[:, :, first:].zero_()

    def of_place(self, slot: int) -> Iterator[list[torch.Tensor]]:
        """Yield keys, values and, where held, keys as first read of a place.

        Each is of shape (layers, key-value heads, capacity + 1, head size), a few layers at a time, so that what is
        made of them stays small.
        """
        for group in self._groups:
            held = [tensor[:, slot] for tensor in group.held]
            if held:
                n_elements = _ELEMENTS_ON_CPU if held[0].device.type == "cpu" else _ELEMENTS_ELSEWHERE
                n_layers = max(n_elements // held[0][0].numel(), 1)
                yield from (list(part) for part in zip(*(tensor.split(n_layers) for tensor in held)))


class _LayerGroup:
    """Consecutive layers on one device."""

    def __init__(self, n_layers: int, is_movable: bool):
        self.n_layers = n_layers
        self.n_slots = self.capacity = 0
        self._is_movable = is_movable
        # Keys, values, keys as first read: (layers, places, key-value heads, capacity, head size); none at first.
        self.held: list[torch.Tensor] = []
        self.layers: list[tuple[torch.Tensor, ...]] = []  # views of them, for each layer

    @torch.inference_mode(False)  # the memory outlives the mode in which it was needed
    def grow(self, n_slots: int, capacity: int, like: torch.Tensor) -> None:
        shape = self.n_layers, n_slots, like.shape[1], capacity + 1, like.shape[2]  # one more: see `of_layer`
        # In float32 a key may be rotated each time it moves: after a hundred times it is off by 1e-6.
        n_kinds = 3 if self._is_movable and like.dtype.itemsize < 4 else 2
        # Zeros: places where nothing was written take part in operations over all places, at weight 0.
        grown = [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(n_kinds)]
        for new, old in zip(grown, self.held):
            new[:, : self.n_slots, :, : self.capacity + 1] = old
        self.held, self.n_slots, self.capacity = grown, n_slots, capacity
        self.layers = list(zip(*(tensor.unbind() for tensor in grown)))


class StreamCache:
    """Keys and values of the first `length` tokens of a stream, layer by layer.

    Args:
        memory: where they are. If tokens are dropped from the middle (:meth:`keep`), keys of less than 32 bits are
            also kept as they were first read: each move starts from these, so that no rounding adds up however often a
            key moves.

    Attributes:
        length: tokens held; every layer holds as many once a forward pass is complete.
        slot: the stream's place in the memory.
    """

    def __init__(self, memory: CacheMemory):
        self.memory = memory
        self.slot = memory.take_slot()
        self.length = 0
        self._moved_back = torch.zeros(0, dtype=torch.long)  # of the first tokens; the others have not moved

    @property
    def n_bytes(self) -> int:
        """Bytes of memory reserved, for all streams that share it."""
        return self.memory.n_bytes

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens of a layer behind those held; `advance` makes them count.

        Args:
            layer: the layer's index.
            keys: (new tokens, key-value heads, head size), rotated.
            values: of the same shape.

        Returns:
            Views of keys and values, old and new, of shape (key-value heads, `length` + new tokens, head size).
        """
        end = self.length + keys.shape[0]
        held = self.memory.reserve(layer, end, keys)
        held_keys, held_values = held[0][self.slot], held[1][self.slot]
        held_keys[:, self.length : end] = keys.transpose(0, 1)
        held_values[:, self.length : end] = values.transpose(0, 1)
        return held_keys[:, :end], held_values[:, :end]

    def place(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views of all memory for keys and values of a layer, (key-value heads, capacity + 1, head size) each.

        What is in it after the tokens held is no stream's.
        """
        keys, values = self.memory.of_layer(layer)
        return keys[self.slot], values[self.slot]

    def advance(self, n_tokens: int) -> None:
        """Count tokens that every layer has appended."""
        self.length += n_tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens from index `length` on."""
        self.length = min(self.length, length)
        self._moved_back = self._moved_back[: self.length]

    def release(self) -> None:
        """Give the stream's place back, empty; the cache cannot be used after it."""
        self.truncate(0)
        self.memory.clear_place(self.slot)  # numbers that are none would spoil what the next stream there hears
        self.memory.free_slot(self.slot)

    def keep(self, runs: Sequence[Run], inv_freq: torch.Tensor) -> None:
        """Keep some tokens, in order, and move their keys back to earlier positions.

        Keys are held rotated; rotations compose, so a key at position p becomes the key at p - d by one more rotation
        by -d (RoFormer, arXiv 2104.09864, section 3.2.2; with Qwen2-VL's three positions, by -d in each of them).

        Args:
            runs: the tokens to keep, in order; those before the first dropped one move back by 0.
            inv_freq: (head size / 2,) the rotary embedding's frequencies.
        """
        if not self.memory.is_movable:
            raise ValueError("tokens can only be dropped from the middle of a cache whose memory is_movable")
        parts = list(self.memory.of_place(self.slot))
        inv_freq, n_kept = inv_freq.float().cpu(), 0
        moved_back = self._hold_first_keys(parts)
        for run in runs:  # each to a place before its own, in which nothing is left that others need
            source, to = slice(run.first, run.end), slice(n_kept, n_kept + run.end - run.first)
            back = run.moved_back
            if moved_back is not None:  # from where they were first read
                back = moved_back[to] = moved_back[source] + back
                back = back[:, None]
            if run.first > n_kept:
                turn = rotation(-back * inv_freq)
                for part in parts:
                    _move(part, source, to, turn)
            n_kept = to.stop
        self.length = n_kept
        if moved_back is not None:
            self._moved_back = moved_back[:n_kept]

    def _hold_first_keys(self, parts: Sequence[Sequence[torch.Tensor]]) -> torch.LongTensor | None:
        """Note keys that have not moved yet; return how far each has, or `None` where keys are held once."""
        if all(len(part) == 2 for part in parts):
            return None
        new = slice(len(self._moved_back), self.length)
        for keys, _, first_keys in parts:
            first_keys[:, :, new] = keys[:, :, new]
        return torch.cat([self._moved_back, torch.zeros(new.stop - new.start, dtype=torch.long)])


class Run(NamedTuple):
    """Consecutive tokens of a cache that stay.

    Attributes:
        first, end: which.
        moved_back: how far the position of each goes back.
    """

    first: int
    end: int
    moved_back: int


def _move(part: Sequence[torch.Tensor], source: slice, to: slice, turn: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Move tokens of some layers, see `CacheMemory.of_place`, and turn their keys."""
    keys, values, *first_keys = part
    cos, sin = (t.to(keys.device) for t in turn)  # layers may be on several devices
    if first_keys:
        moved = first_keys[0][:, :, source].clone()
        first_keys[0][:, :, to] = moved
        keys[:, :, to] = rotate(moved.float(), cos, sin)
    else:
        moved = keys[:, :, source]
        torch.addcmul(moved * cos, _halves_swapped(moved), sin, out=keys[:, :, to])
    values[:, :, to] = values[:, :, source].clone()


class TokenOfEach:
    """One new token of each of several streams that share their memory, in every layer.

    Args:
        caches: of the B streams.
    """

    def __init__(self, caches: Sequence[StreamCache]):
        self._memory = caches[0].memory
        self._slots, self._lengths = [cache.slot for cache in caches], [cache.length for cache in caches]
        self._n_slots, self._n_tokens = max(self._slots) + 1, max(self._lengths) + 1
        self._is_all = self._slots == list(range(self._n_slots))
        self._on_device: dict[torch.device, torch.LongTensor] = {}
        self._places: dict[tuple, _Places] = {}

    def move_on(self) -> None:
        """Go to the token after this one, of each."""
        self._lengths = [length + 1 for length in self._lengths]
        self._n_tokens += 1
        if any(places.n_most < self._n_tokens for places in self._places.values()):
            self._places.clear()
        for places in self._places.values():
            places.move_on()

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Write the tokens of a layer, keys and values of shape (B, key-value heads, head size).

        Returns:
            Views of keys and values, (places, key-value heads, tokens of the longest stream, head size), and what is
            added to scores, (places, key-value heads, 1, tokens of the longest stream): -inf at tokens not to see.
        """
        held = self._memory.reserve(layer, self._n_tokens, keys)[:2]
        key = keys.device, keys.dtype, held[0].shape
        places = self._places.get(key)
        if places is None:  # the same in all layers
            places = self._places[key] = _Places(self._slots, self._lengths, held[0])
        views = []
        for whole, new in zip(held, (keys, values)):
            whole.view(-1, whole.shape[-1]).index_copy_(0, places.rows, new.reshape(-1, whole.shape[-1]))
            views.append(whole[: self._n_slots, :, : self._n_tokens])
        return views[0], views[1], places.mask[..., : self._n_tokens]

    def to_places(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows (B, ...) of the streams at their places, (places, ...)."""
        if self._is_all:
            return rows
        placed = rows.new_zeros(self._n_slots, *rows.shape[1:])
        return placed.index_copy_(0, self._index(rows.device), rows)

    def of_streams(self, placed: torch.Tensor) -> torch.Tensor:
        """Return the rows (B, ...) of the streams from those of all places."""
        return placed if self._is_all else placed[self._index(placed.device)]

    def _index(self, device: torch.device) -> torch.LongTensor:
        if device not in self._on_device:
            self._on_device[device] = torch.tensor(self._slots, device=device)
        return self._on_device[device]


class _Places:
    """Where in memory the next tokens go, and what they see; moved on in place.

    Args:
        slots: the streams' places.
        lengths: tokens that each holds.
        held: (places, key-value heads, tokens, head size) memory of a layer.

    Attributes:
        rows: of the new keys, streams before heads, in memory seen as rows of a head's size.
        mask: (places up to the last, key-value heads, 1, `n_most`).
        n_most: the longest a stream may get.
    """

    def __init__(self, slots: Sequence[int], lengths: Sequence[int], held: torch.Tensor):
        n_slots, n_heads = max(slots) + 1, held.shape[1]
        self.n_most = max(lengths) + 1 + _SPARE
        ends = [0] * n_slots  # other places compute something that nobody reads
        for slot, length in zip(slots, lengths):
            ends[slot] = length
        is_later = torch.arange(self.n_most) > torch.tensor(ends)[:, None]
        mask = torch.zeros(is_later.shape, dtype=held.dtype).masked_fill_(is_later, -torch.inf)
        self.mask = mask[:, None, None].repeat(1, n_heads, 1, 1).to(held.device)
        first = torch.tensor(slots)[:, None] * n_heads + torch.arange(n_heads)
        at = torch.tensor(lengths)[:, None]
        self.rows, self._newest = (
            (first * n_kept + at).flatten().to(held.device) for n_kept in (held.shape[2], self.n_most)
        )

    def move_on(self) -> None:
        """Go to the next tokens."""
        self.rows += 1
        self._newest += 1
        self.mask.view(-1).index_fill_(0, self._newest, 0)


def rotation(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what :func:`rotate` takes for angles (..., head size / 2): cosine and sine, (..., head size) each."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply a rotary embedding to the last dimension of `x`, halves paired as in Qwen2-VL.

    Args:
        x: (..., head size).
        cos: cosines of the angles, for both halves.
        sin: sines, those for the first half negated.
    """
    return torch.addcmul(x * cos, _halves_swapped(x), sin)


def _halves_swapped(x: torch.Tensor) -> torch.Tensor:
    return x.roll(x.shape[-1] // 2, -1)
