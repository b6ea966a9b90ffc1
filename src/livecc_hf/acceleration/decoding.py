"""Decoding in fixed shapes: on a GPU, a step of one or many streams is one CUDA graph for any context length.

A step decodes one token in each of the first 1, 2, 4, 8 ... slots of a KV cache pool, as many as needed. Slots without
an active stream write to the position after the capacity, which is never read, and their results are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from livecc_hf.acceleration.decode_slots import DecodeSlots
from livecc_hf.acceleration.graph import Capture, CUDAGraphed
from livecc_hf.acceleration.split_attention import attend_in_parts, split_mask
from livecc_hf.modeling.attention import PackedBatch, run
from livecc_hf.modeling.kv_cache import KVCache, KVCachePool
from livecc_hf.modeling.transfer import to_device

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration


class FixedDecoding:
    """Returns a :class:`DecodeStep` for streams that share a KV cache pool; used as a model's `decode_step`.

    If no graph can be replayed, several streams still get a step, because it has few shapes; one stream does not.

    Args:
        devices: the device types to use it on.
        capture: captures graphs; default: :func:`capture_graph`.
    """

    def __init__(self, devices: Sequence[str] = ("cuda",), capture: Capture | None = None):
        self._devices, self._capture = tuple(devices), capture

    def __call__(
        self, model: LiveCCForConditionalGeneration, caches: Sequence[KVCache], n_steps: int
    ) -> DecodeStep | None:
        """Return a decode step for some streams; the pool's last one is used again if its memory has not changed.

        Args:
            model: a `LiveCCForConditionalGeneration`.
            caches: the streams' caches.
            n_steps: most tokens that each will decode.

        Returns:
            The step, ready for the first tokens; `None` if it would not be faster.
        """
        memory = caches[0].memory
        is_shared = all(cache.memory is memory for cache in caches)
        if not is_shared or not self._has_fast_kernels(model.lm_head.weight.device):
            return None
        longest = max(cache.length for cache in caches) + n_steps
        memory.reserve_all(longest)
        step = memory.step
        if step is None or step.model is not model:
            step = memory.step = DecodeStep(model, memory, self._capture)
        if not step.check() and len(caches) == 1:
            return None
        step.begin([cache.slot for cache in caches], [cache.length for cache in caches], longest)
        return step

    def _has_fast_kernels(self, device: torch.device) -> bool:
        # Not on AMD GPUs (also device "cuda"), where the kernels called by name here are untested.
        return device.type in self._devices and (device.type != "cuda" or torch.version.hip is None)


class DecodeStep:
    """Decodes one token of each of several streams that share a KV cache pool.

    Attributes:
        model: the model it belongs to.
        graphed: the step as a function of the token ids and positions (n,) of the first n slots.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        memory: the streams' pool.
        capture: captures graphs; default: :func:`capture_graph`.
    """

    @torch.inference_mode(False)  # it outlives the caller's mode
    def __init__(self, model: LiveCCForConditionalGeneration, memory: KVCachePool, capture: Capture | None = None):
        self.model = model
        self._slots = _SplitSlots(memory, memory.capacity)
        self._run = _Pass(model, self._slots)
        self._capacity = memory.capacity
        weights = (weight for module in self._run.modules() for weight in module.parameters(recurse=False))
        self._is_on_one_device = len({weight.device for weight in weights}) == 1
        self._is_replayed = False
        self.graphed = CUDAGraphed(self._run, self._run.modules, self._slots.lengths, capture)
        self._device = model.get_input_embeddings().weight.device
        self._chosen_slots: list[int] = []
        self._chosen = torch.zeros(0, dtype=torch.long, device=self._device)

    def check(self) -> bool:
        """Check the model's modules for changes, and return whether steps will be replayed as a graph."""
        self._is_replayed = self._is_on_one_device and self.graphed.check()
        return self._is_replayed

    def begin(self, slots: Sequence[int], lengths: Sequence[int], longest: int) -> None:
        """Prepare the next steps.

        Args:
            slots: the slots to decode.
            lengths: number of tokens in each.
            longest: most tokens that one will hold.
        """
        n_used = min(1 << max(slots).bit_length(), len(self._slots.layers[0][0]))
        self._slots.begin(slots, lengths, self._capacity if self._is_replayed else longest, n_used)
        self._choose(slots)

    @torch.inference_mode(False)
    @torch.no_grad()
    def step(self, batch: PackedBatch, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Run one token of each of b streams.

        Args:
            batch: the streams.
            token_ids: (b,) the tokens, on the model's device.
            positions: (b,) their positions, on the same device.

        Returns:
            Logits of the next tokens, (b, vocabulary); a copy that later steps do not overwrite.
        """
        if batch.slots != self._chosen_slots:
            self._choose(batch.slots)
        inputs = [self._in_slots(tensor) for tensor in (token_ids, positions)]
        logits = self.graphed(*inputs) if self._is_replayed else self._run(*inputs)
        return logits.index_select(0, self._chosen.to(logits.device))

    def _choose(self, slots: Sequence[int]) -> None:
        self._chosen_slots, self._chosen = list(slots), to_device(torch.tensor(slots), self._device)

    def _in_slots(self, values: torch.Tensor) -> torch.Tensor:
        """Scatter the streams' values (b,) to their slots, (n,)."""
        return values.new_zeros(self._slots.n_used).index_copy_(0, self._chosen, values)


class _Pass:
    """The forward pass of a step, which its graphs refer to; it does not refer to the step (see `CUDAGraphed`)."""

    def __init__(self, model: LiveCCForConditionalGeneration, slots: DecodeSlots):
        self._language_model, self._head, self._slots = model.model.language_model, model.lm_head, slots

    def __call__(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        logits = self._head(run(self._language_model, token_ids, positions.expand(3, -1), self._slots))
        self._slots.advance()
        return logits

    def modules(self) -> Iterator[nn.Module]:
        yield from self._language_model.modules()
        yield from self._head.modules()


class _SplitSlots(DecodeSlots):
    """Decode slots that attend to their keys in parts; see `attend_in_parts`."""

    def _mask(self, lengths: torch.Tensor, n_keys: int, keys: torch.Tensor) -> torch.Tensor:
        return split_mask(lengths, n_keys, keys.shape[1], keys.dtype)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        return attend_in_parts(query, keys, values, mask, scale)
