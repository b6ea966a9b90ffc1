"""Decoding in fixed shapes: on a GPU a step of one or many streams is one graph, whatever they have read so far.

A step reads one token at each of the first slots of a cache memory: 1, 2, 4, 8 ... of them, as many as are needed. What
the slots compute whose streams do not speak is written behind all tokens, where nobody reads, and dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from livecc_hf.acceleration.graph import Capture, CUDAGraphed
from livecc_hf.acceleration.split_attention import attend_in_parts, split_mask
from livecc_hf.modeling.attention import run
from livecc_hf.modeling.kv_cache import KVCache, KVCachePool
from livecc_hf.modeling.transfer import to_device

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration

_KEYS_STEP = 1024  # memory that is attended to without a graph is rounded up to so many tokens


class FixedDecoding:
    """Gives streams that share their memory a :class:`DecodeStep`; stands as `decode_step` on the model.

    Args:
        devices: kinds of devices where it is used. Where no graph can be replayed, several streams have a step all the
            same, since its shapes are few; one stream is better off without.
        capture: how graphs are made; default: on CUDA.
    """

    def __init__(self, devices: Sequence[str] = ("cuda",), capture: Capture | None = None):
        self._devices, self._capture = tuple(devices), capture

    def __call__(
        self, model: LiveCCForConditionalGeneration, caches: Sequence[KVCache], n_steps: int
    ) -> DecodeStep | None:
        """Return a step for some streams, made before where one still fits their memory.

        Args:
            model: a `LiveCCForConditionalGeneration`.
            caches: of the streams.
            n_steps: how many tokens will be read of each, at most.

        Returns:
            The step, ready for the first tokens; `None` where there is nothing to gain.
        """
        memory = caches[0].memory
        is_shared = all(cache.memory is memory for cache in caches)
        if not is_shared or not self._has_fast_kernels(model.lm_head.weight.device):
            return None
        longest = max(cache.length for cache in caches) + n_steps
        memory.reserve_all(longest)
        key = memory.addresses, memory.n_reserved_slots, memory.capacity
        if memory.step is None or memory.step[0] != key or memory.step[1].model is not model:
            memory.step = None  # before the next one is captured: its memory is free then
            memory.step = key, DecodeStep(model, memory, self._capture)
        step = memory.step[1]
        if not step.check() and len(caches) == 1:
            return None
        step.begin([cache.slot for cache in caches], [cache.length for cache in caches], longest)
        return step

    def _has_fast_kernels(self, device: torch.device) -> bool:
        # On AMD's, what is called by name here was never tried.
        return device.type in self._devices and (device.type != "cuda" or torch.version.hip is None)


class DecodeStep:
    """Reads one token of each of some streams that share their memory.

    Attributes:
        model: whose step it is.
        graphed: the step, a function of token ids and positions (n,) of the first n slots.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        memory: of the streams; its addresses must stay.
        capture: how graphs are made; default: on CUDA.
    """

    @torch.inference_mode(False)  # it outlives the caller's mode
    def __init__(self, model: LiveCCForConditionalGeneration, memory: KVCachePool, capture: Capture | None = None):
        self.model = model
        self._language_model, self._head = model.model.language_model, model.lm_head
        self._slots = _Slots(memory)
        self._is_on_one_device = len({weight.device for weight in self._weights()}) == 1
        self._is_replayed = False
        self.graphed = CUDAGraphed(self._step, self._modules, self._slots.counts, capture)
        self._device = model.get_input_embeddings().weight.device
        self._chosen_slots: list[int] = []
        self._chosen = torch.zeros(0, dtype=torch.long, device=self._device)

    def check(self) -> bool:
        """Look at the model's modules again, and return whether steps will be replayed as a graph."""
        self._is_replayed = self._is_on_one_device and self.graphed.check()
        return self._is_replayed

    def begin(self, slots: Sequence[int], lengths: Sequence[int], longest: int) -> None:
        """Say which slots will speak, how many tokens each holds, and how many the longest may hold in the end."""
        self._slots.begin(slots, lengths, None if self._is_replayed else longest)
        self._choose(slots)

    @torch.inference_mode(False)
    @torch.no_grad()
    def step(self, token_ids: torch.Tensor, positions: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
        """Read a token of each of some streams that speak.

        Args:
            token_ids: (b,) the tokens, on the model's device.
            positions: (b,) theirs.
            slots: (b,) their slots in the memory.

        Returns:
            Logits of what follows, (b, vocabulary); a copy.
        """
        if list(slots) != self._chosen_slots:
            self._choose(slots)
        inputs = [self._in_slots(tensor) for tensor in (token_ids, positions)]
        logits = self.graphed(*inputs) if self._is_replayed else self._step(*inputs)
        return logits.index_select(0, self._chosen.to(logits.device))

    def _modules(self) -> Iterator[nn.Module]:
        yield from self._language_model.modules()
        yield from self._head.modules()

    def _weights(self) -> Iterator[torch.Tensor]:
        return (weight for module in self._modules() for weight in module._parameters.values() if weight is not None)

    def _choose(self, slots: Sequence[int]) -> None:
        self._chosen_slots, self._chosen = list(slots), to_device(torch.tensor(slots), self._device)

    def _in_slots(self, values: torch.Tensor) -> torch.Tensor:
        """Return values (b,) of the streams at their slots, (n,)."""
        return values.new_zeros(self._slots.n_used).index_copy_(0, self._chosen, values)

    def _step(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self._slots.look(len(token_ids))
        logits = self._head(run(self._language_model, token_ids, positions.expand(3, -1), self._slots))
        self._slots.advance()
        return logits


class _Slots:
    """The first slots of a memory as the layers see them in a step; takes the place of `PackedBatch`."""

    def __init__(self, memory: KVCachePool):
        # Not the memory itself, which holds the step: together they would stay until garbage is collected.
        self._layers = [memory.layer_tensors(layer) for layer in range(memory.n_layers)]
        self._n_reserved_slots, self._capacity = memory.n_reserved_slots, memory.capacity
        self.n_used = self._n_reserved_slots
        self._on = {keys.device: _SlotCounts(keys) for keys, _ in self._layers}
        self._n_keys = self._capacity

    @property
    def counts(self) -> list[torch.Tensor]:
        """What a step changes, besides the tokens that it adds."""
        return [counts.at for counts in self._on.values()]

    def begin(self, slots: Sequence[int], lengths: Sequence[int], longest: int | None) -> None:
        """As `DecodeStep.begin`; `longest` is `None` where a graph wants all memory attended to."""
        self.n_used = min(1 << max(slots).bit_length(), self._n_reserved_slots)
        self._n_keys = self._capacity
        if longest is not None:
            self._n_keys = min(-(-longest // _KEYS_STEP) * _KEYS_STEP, self._capacity)
        at = torch.full((self._n_reserved_slots,), self._capacity)  # behind all tokens: what nobody reads
        at[list(slots)] = torch.tensor(lengths)
        for counts in self._on.values():
            counts.at.copy_(to_device(at, counts.at.device))
            counts.moves.copy_(to_device((at < self._capacity).long(), counts.at.device))

    def look(self, n: int) -> None:
        """Make the masks of a step of the first n slots."""
        for counts in self._on.values():
            counts.mask = split_mask(counts.at[:n], self._n_keys, counts.n_heads, counts.dtype)

    def advance(self) -> None:
        """Go to the next tokens."""
        # A stream that has stopped speaking goes on too, through memory that is reserved and not counted.
        for counts in self._on.values():
            counts.at.add_(counts.moves)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Add the new tokens of a layer and attend from each to its slot up to itself; as `PackedBatch.attend`."""
        n = len(query)
        counts = self._on[query.device]
        keys, values = (held[:n] for held in self._layers[layer])
        first, at = counts.all[:n], counts.at[:n]
        keys[first, :, at] = key.to(keys.dtype)  # which autocast may have changed
        values[first, :, at] = value.to(values.dtype)
        return attend_in_parts(query, keys, values, counts.mask, scale)


class _SlotCounts:
    """Where the slots' new tokens go, on one device, and what these see."""

    def __init__(self, keys: torch.Tensor):
        n, self.n_heads, self.dtype = len(keys), keys.shape[1], keys.dtype
        self.all = torch.arange(n, device=keys.device)
        self.at, self.moves = torch.zeros_like(self.all), torch.zeros_like(self.all)
        self.mask = keys.new_zeros(0)
