"""Decoding with nothing to decide per step: fixed shapes and addresses, so that CUDA replays a step as one graph.

Every place of a memory gets a token in every step, whether its stream speaks or not; what the silent ones compute
goes where nobody reads. So the same graph serves any number of speaking streams, until the memory grows.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from .attention import run
from .kv_cache import CacheMemory

# Packages whose modules replace a model's own.
_SWITCHING_PACKAGES = ("peft", "bitsandbytes", "optimum", "torchao")
_CAPTURING = threading.Lock()  # one capture at a time in a process


def fixed_step(model, memory: CacheMemory, n_tokens: int) -> FixedStep | None:
    """Return a step over a memory with room for `n_tokens` at each place, made before where one still fits.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        memory: that of all streams.
        n_tokens: the longest a stream may get while the step is used.

    Returns:
        The step; `None` where there is nothing to gain: not on one CUDA device, or something hangs on the modules.
    """
    modules = [*model.model.language_model.modules(), model.lm_head]
    if not (_is_worth_it(model.lm_head.weight.device) and all(map(is_plain, modules))):
        return None
    weights = [weight for module in modules for weight in module.parameters(recurse=False)]
    if len({weight.device for weight in weights}) > 1:
        return None
    memory.reserve_all(n_tokens)
    key = memory.addresses, memory.n_places, memory.capacity, tuple(weight.data_ptr() for weight in weights)
    if memory.step is None or memory.step[0] != key:
        memory.step = None  # before the next one is captured: its memory is free then
        memory.step = key, FixedStep(model, memory)
    return memory.step[1]


def is_plain(module: torch.nn.Module) -> bool:
    """Return whether calling a module is known to run the same operations each time: what a replayed graph repeats.

    Hooks are Python, which a graph does not run; adapters and quantised layers come from other packages than the
    model's and may be switched.
    """
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in vars(module)
        or module._compiled_call_impl is not None
        or type(module).__module__.partition(".")[0] in _SWITCHING_PACKAGES
    )


def _is_worth_it(device: torch.device) -> bool:
    """Return whether launches cost more than the computation of silent places."""
    return device.type == "cuda"


class FixedStep:
    """Reads one token at every place of a memory.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        memory: of the streams; its addresses must stay.
    """

    @torch.inference_mode(False)  # it outlives the caller's mode
    def __init__(self, model, memory: CacheMemory):
        embedding = model.get_input_embeddings().weight
        self._language_model, self._head = model.model.language_model, model.lm_head
        self._places = _AllPlaces(memory, embedding)
        n = self._places.n_places
        self._token_ids = torch.zeros(n, dtype=torch.long, device=embedding.device)
        self._positions = torch.zeros(n, dtype=torch.long, device=embedding.device)
        self._logits: torch.Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_captured = False
        self._slots: list[int] = []
        self._chosen: torch.LongTensor | None = None

    def begin(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        """Say which places will speak, and how many tokens each holds."""
        self._places.begin(slots, lengths)
        self._slots = list(slots)
        self._chosen = self._places.on_device(slots)

    @torch.inference_mode(False)
    @torch.no_grad()
    def read(self, token_ids: torch.LongTensor, positions: torch.LongTensor, slots: Sequence[int]) -> torch.FloatTensor:
        """Read a token of each of some streams that speak.

        Args:
            token_ids: (b,) the tokens.
            positions: (b,) theirs.
            slots: (b,) their places.

        Returns:
            Logits of what follows, (b, vocabulary); a copy.
        """
        if list(slots) != self._slots:
            self._slots, self._chosen = list(slots), self._places.on_device(slots)
        places = self._chosen
        self._token_ids.index_copy_(0, places, token_ids)
        self._positions.index_copy_(0, places, positions)
        if not self._is_captured and token_ids.device.type == "cuda":
            self._capture()
        if self._graph is None:
            self._logits = self._step()
        else:
            with torch.cuda.device(self._token_ids.device):
                self._graph.replay()
        return self._logits.index_select(0, places)

    def _step(self) -> torch.FloatTensor:
        self._places.look()
        positions = self._positions.expand(3, -1)
        logits = self._head(run(self._language_model, self._token_ids, positions, self._places))
        self._places.move_on()
        return logits

    def _capture(self) -> None:
        self._is_captured = True
        at = self._places.at.clone()
        with _CAPTURING, torch.cuda.device(at.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(side):  # what libraries set up at their first call cannot be captured
                    for _ in range(2):
                        self._step()
                        self._places.at.copy_(at)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    self._logits = self._step()
                self._graph = graph
            except RuntimeError as error:
                warnings.warn(f"decoding without a CUDA graph, which is slower: {error}", stacklevel=2)
            finally:
                torch.cuda.current_stream().wait_stream(side)
                self._places.at.copy_(at)


class _AllPlaces:
    """The caches of a memory as the layers see them in a step; takes the place of `PackedCaches`."""

    def __init__(self, memory: CacheMemory, like: torch.Tensor):
        device = like.device
        # Not the memory itself, which holds the step: together they would stay until garbage is collected.
        self._layers = [memory.of_layer(layer) for layer in range(memory.n_layers)]
        self._dtype = like.dtype
        self.n_places, self._capacity = memory.n_places, memory.capacity
        self._all = torch.arange(self.n_places, device=device)
        self._index = torch.arange(self._capacity, device=device)
        self._moves = torch.zeros(self.n_places, dtype=torch.long, device=device)
        self.at = torch.zeros(self.n_places, dtype=torch.long, device=device)  # where the new tokens go
        self._mask: torch.Tensor | None = None

    def begin(self, slots: Sequence[int], lengths: Sequence[int]) -> None:
        at = torch.full((self.n_places,), self._capacity)  # behind all tokens: what nobody reads
        at[list(slots)] = torch.tensor(lengths)
        self.at.copy_(at)
        self._moves.copy_(at < self._capacity)

    def on_device(self, slots: Sequence[int]) -> torch.LongTensor:
        return torch.tensor(slots, device=self.at.device)

    def look(self) -> None:
        is_later = self._index > self.at[:, None]
        mask = torch.zeros(is_later.shape, dtype=self._dtype, device=self.at.device)
        self._mask = mask.masked_fill_(is_later, -torch.inf)[:, None, None]

    def move_on(self) -> None:
        # A stream that has stopped speaking moves on too, through memory that is reserved and not counted.
        self.at.add_(self._moves)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Add the new tokens of a layer and attend from each to its place up to itself; as `PackedCaches.attend`."""
        keys, values = self._layers[layer]
        keys[self._all, :, self.at] = key.to(keys.dtype)  # which autocast may have changed
        values[self._all, :, self.at] = value.to(values.dtype)
        n, n_heads, size = query.shape
        attended = scaled_dot_product_attention(
            query.reshape(n, keys.shape[1], -1, size),
            keys[:, :, : self._capacity],
            values[:, :, : self._capacity],
            attn_mask=self._mask,
            scale=scale,
        )
        return attended.reshape(n, n_heads, size)
