"""A function of tensors that is replayed as one CUDA graph.

A replay launches all kernels of a call at once, without the Python overhead of a step of many small kernels. It runs
the kernels and addresses of the captured call, so everything that could change these is part of a key: the inputs'
shapes, the weights' addresses, and the attributes of modules, such as which adapter is active.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

Function = Callable[..., torch.Tensor]
# Takes a function, its input buffers, tensors that it changes, and the memory of earlier graphs (`None` for the first);
# returns the graph. Restores the changed tensors.
Capture = Callable[[Function, Sequence[torch.Tensor], Sequence[torch.Tensor], Any], "Graph"]

_CAPTURING = threading.Lock()  # one capture at a time in a process
_are_disabled: ContextVar[bool] = ContextVar("graphs_are_disabled", default=False)
_N_WARM_UP_CALLS = 2  # the one-time setup in libraries' first calls cannot be captured
# Packages whose modules' forward passes do not depend on attributes that may be switched.
_WITHOUT_SWITCHES = ("torch", "transformers")
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_PLAIN = frozenset([bool, int, float, str, bytes, type(None), torch.dtype, torch.device])


@contextlib.contextmanager
def graphs_disabled() -> Iterator[None]:
    """Run functions eagerly inside the context, for example to find out whether a graph causes a fault."""
    token = _are_disabled.set(True)
    try:
        yield
    finally:
        _are_disabled.reset(token)


class CUDAGraphed:
    """A function of tensors on one CUDA device that is captured at its first call, then replayed.

    There is one graph for each combination of input shapes and dtypes. They share the memory of what is neither input
    nor output, so calls must not overlap. The function runs eagerly if a replay could be wrong: inside
    :func:`graphs_disabled`; under autocast, whose cast weights live only as long as its context; if a module has hooks
    (see :func:`replay_key`); and after a capture failed, with a warning.

    Args:
        function: takes tensors and returns one. It must not wait for the device, depend on values, or refer to this
            object: in a cycle, graphs keep their memory until the garbage collector runs.
        modules: returns the modules that it calls; must not refer to this object either.
        state: small tensors that it changes, except those where running it twice does no harm.
        capture: captures a graph; see `Capture`.
    """

    def __init__(
        self,
        function: Function,
        modules: Callable[[], Iterable[nn.Module]] = tuple,
        state: Sequence[torch.Tensor] = (),
        capture: Capture | None = None,
    ):
        self._function, self._modules, self._state = function, modules, tuple(state)
        self._capture = capture or capture_graph
        self._graphs: dict[Hashable, Graph] = {}
        self._key: Hashable | None = None
        self._has_failed = False
        self.check()

    @property
    def graphs(self) -> list[Graph]:
        """The captured graphs."""
        return list(self._graphs.values())

    @property
    def is_replayed(self) -> bool:
        """Whether a call now would be replayed, or captured first."""
        is_off = _are_disabled.get() or self._has_failed or self._key is None
        return not is_off and not torch.is_autocast_enabled("cuda") and not torch.is_autocast_enabled("cpu")

    def check(self) -> bool:
        """Drop the graphs if the modules have changed, and return whether calls will be replayed.

        Call it before calls if the modules may have changed.
        """
        key = replay_key(self._modules())
        if key != self._key:
            self._graphs.clear()
            self._key = key
        return self.is_replayed

    @torch.inference_mode(False)  # buffers and graphs outlive the caller's mode
    @torch.no_grad()
    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the function's result; the next call may overwrite it."""
        if not self.is_replayed:
            return self._function(*inputs)
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs)
        graph = self._graphs.get(key)
        if graph is None:
            buffers = [tensor.clone() for tensor in inputs]
            memory = next((graph.memory for graph in self._graphs.values()), None)
            try:
                graph = self._graphs[key] = self._capture(self._function, buffers, self._state, memory)
            except RuntimeError as error:
                self._has_failed = True
                self._graphs.clear()
                # An error inside a capture makes its end fail too, with a message that does not name the cause.
                cause = error.__context__ or error
                warnings.warn(f"running without a CUDA graph, which is slower: {cause}", stacklevel=2)
                return self._function(*inputs)
        for buffer, tensor in zip(graph.inputs, inputs, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        graph.replay()
        return graph.output


@dataclass(frozen=True)
class Graph:
    """A captured graph.

    Attributes:
        inputs: its input buffers.
        replay: runs it.
        output: its output tensor, which each replay overwrites.
        memory: the pool of its other tensors, which later graphs may share while it exists.
    """

    inputs: Sequence[torch.Tensor]
    replay: Callable[[], Any]
    output: torch.Tensor
    memory: Any = None


def replay_key(modules: Iterable[nn.Module]) -> Hashable | None:
    """Return a key that changes when modules would run other operations or read other addresses.

    It holds the addresses of weights and buffers and, for modules not of PyTorch or transformers, their attributes:
    adapters have scales and may be switched.

    Returns:
        The key; `None` if a replay would skip something: hooks of a module or of all, or a replaced forward pass.
    """
    if _has_any_global_hook():
        return None
    key: list[Hashable] = []
    for module in modules:
        if has_hooks(module):
            return None
        key += [tensor.data_ptr() for tensor in module._parameters.values() if tensor is not None]
        key += [tensor.data_ptr() for tensor in module._buffers.values() if tensor is not None]
        if _may_be_switched(type(module).__module__):
            values = ((name, value) for name, value in vars(module).items() if name not in _OF_EVERY_MODULE)
            key += [(name, value if type(value) in _PLAIN else _frozen(value)) for name, value in values]
    return tuple(key)


@lru_cache
def _may_be_switched(place: str) -> bool:
    """Return whether classes of the Python module `place` may have attributes that switch their forward pass."""
    return place.partition(".")[0] not in _WITHOUT_SWITCHES


def has_hooks(module: nn.Module) -> bool:
    """Return whether calling a module runs anything but the forward pass of its class."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in vars(module)
        or module._compiled_call_impl is not None
    )


def _frozen(value: object) -> Hashable:
    """Return a hashable copy of a value: plain values and collections by content, anything else by identity."""
    if type(value) in _PLAIN and isinstance(value, Hashable):
        return value
    if isinstance(value, dict):
        return tuple([(name, _frozen(item)) for name, item in value.items()])
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    if isinstance(value, set | frozenset):
        return frozenset(map(_frozen, value))
    return id(value)


def capture_graph(
    function: Function, inputs: Sequence[torch.Tensor], state: Sequence[torch.Tensor], memory: Any = None
) -> Graph:
    """Capture a call of a function on a CUDA device; see `Capture`."""
    before = [tensor.clone() for tensor in state]
    device = inputs[0].device

    def restore() -> None:
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)

    with _CAPTURING, torch.cuda.device(device):
        here, side = torch.cuda.current_stream(), _capture_stream(device)
        side.wait_stream(here)
        try:
            with torch.cuda.stream(here):  # if a capture fails, `torch.cuda.graph` leaves its own stream current
                with torch.cuda.stream(side):
                    for _ in range(_N_WARM_UP_CALLS):
                        function(*inputs)
                        restore()
                here.wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                # thread_local: other threads may push frames or free memory during the capture.
                with torch.cuda.graph(graph, memory, stream=side, capture_error_mode="thread_local"):
                    output = function(*inputs)
        finally:
            here.wait_stream(side)
            restore()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return Graph(inputs, replay, output, graph.pool())


@lru_cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream for all captures on a device, because cuBLAS allocates a workspace for each stream."""
    return torch.cuda.Stream(device)
