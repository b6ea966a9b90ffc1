"""A replayed function computes the same as an eager call."""

import contextlib
import copy
import warnings
from unittest import mock

import pytest
import torch
from eager_graph import capture_eagerly
from torch import nn

from livecc_hf.acceleration import graph
from livecc_hf.acceleration.graph import CUDAGraphed, capture_graph, graphs_disabled, replay_key


@pytest.fixture
def counted():
    """Addition to a total, and how often it was captured."""
    total, captures = torch.zeros(1), []

    def add(x, y):
        total.add_(1)
        return x * y + total

    def capture(*args):
        captures.append(args)
        return capture_eagerly(*args)

    return CUDAGraphed(add, state=[total], capture=capture), total, captures


def test_a_replay_equals_a_call(counted):
    graphed, total, captures = counted
    for step in range(1, 4):
        x, y = torch.randn(2, 3), torch.randn(2, 3)
        torch.testing.assert_close(graphed(x, y), x * y + step)
    assert total == 3  # capturing does not change it
    assert len(captures) == len(graphed.graphs) == 1
    graphed(torch.randn(5), torch.randn(5))
    graphed(torch.randn(5).double(), torch.randn(5))
    assert len(graphed.graphs) == 3
    assert graphed(x, y) is graphed(x, y)  # one address


def test_a_capture_copies_its_inputs(counted):
    graphed, _, captures = counted
    x, y = torch.ones(2), torch.ones(2)
    graphed(x, y)
    graphed(x + 1, y + 1)
    assert x.tolist() == y.tolist() == [1, 1]
    assert [buffer.tolist() for buffer in captures[0][1]] == [[2, 2], [2, 2]]


def test_graphs_share_their_memory_while_one_exists(counted):
    """PyTorch refuses the memory of graphs that are all gone."""
    graphed, _, captures = counted
    for n in (1, 2, 3):
        graphed(torch.ones(n), torch.ones(n))
    first = graphed.graphs[0].memory
    assert [memory for *_, memory in captures] == [None, first, first]
    with graphs_disabled():
        graphed.check()
    assert len(graphed.graphs) == 3


def test_graphs_can_be_disabled_and_are_off_under_autocast(counted):
    graphed, total, captures = counted
    with graphs_disabled():
        assert not graphed.is_replayed
        assert graphed(torch.ones(1), torch.ones(1)) == 2
    with torch.autocast("cpu", torch.bfloat16):  # its cast weights are freed with it
        assert not graphed.check()
        graphed(torch.ones(1), torch.ones(1))
    assert not captures
    assert graphed.check() and total == 2


def test_a_function_that_cannot_be_captured_runs_eagerly_with_a_warning():
    def capture(*args):
        raise RuntimeError("operation not permitted when stream is capturing")

    graphed = CUDAGraphed(lambda x: x + 1, capture=capture)
    with pytest.warns(UserWarning, match="without a CUDA graph, which is slower: operation not permitted"):
        assert graphed(torch.ones(1)) == 2
    with warnings.catch_warnings():  # it is not tried again
        warnings.simplefilter("error")
        assert graphed(torch.ones(1)) == 2
    assert not graphed.check()


class Scaled(nn.Module):
    """A module that looks like an adapter to a graph."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.scaling, self.active = {"first": 1.0}, ["first"]

    def forward(self, x):
        return sum(self.layer(x) * self.scaling[name] for name in self.active)


def test_changed_modules_are_captured_again():
    model, other = Scaled(), copy.deepcopy(Scaled())
    graphed = CUDAGraphed(model, model.modules, capture=capture_eagerly)
    x = torch.randn(2, 3)
    changes = [
        lambda: model.scaling.update(first=3.0),
        lambda: model.active.clear() or model.active.extend(["first", "first"]),
        lambda: setattr(model, "layer", other.layer),
        lambda: setattr(model.layer, "weight", nn.Parameter(torch.randn(3, 3))),
    ]
    for change in changes:
        key = replay_key(model.modules())
        assert graphed.check() and replay_key(model.modules()) == key
        torch.testing.assert_close(graphed(x), model(x))
        assert len(graphed.graphs) == 1
        change()
        assert replay_key(model.modules()) != key
    model.layer.weight.data.add_(1)  # in place, as an optimizer does: replays read the new values
    assert graphed.check()
    torch.testing.assert_close(graphed(x), model(x))
    n_graphs = len(graphed.graphs)
    model.layer.weight.data.add_(1)
    assert graphed.check() and len(graphed.graphs) == n_graphs


def test_modules_with_hooks_run_eagerly():
    model = Scaled()
    graphed = CUDAGraphed(model, model.modules, capture=capture_eagerly)
    x = torch.ones(1, 3)
    for module in model.modules():
        hook = module.register_forward_hook(lambda module, args, output: output + 1)
        assert not graphed.check()
        torch.testing.assert_close(graphed(x), model(x))
        hook.remove()
        assert graphed.check()
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: output + 1)
    try:
        assert not graphed.check()
        torch.testing.assert_close(graphed(x), model(x))
    finally:
        hook.remove()
    assert graphed.check()
    model.layer.forward = lambda x: x
    assert not graphed.check()
    torch.testing.assert_close(graphed(x), x)


@pytest.fixture
def streams(monkeypatch):
    """The current CUDA stream, in a list, and a capture that fails as PyTorch's does: its stream stays current."""
    here, side = mock.Mock(), mock.Mock()
    current = [here]

    @contextlib.contextmanager
    def on(stream):
        before, current[0] = current[0], stream
        try:
            yield
        finally:
            current[0] = before

    @contextlib.contextmanager
    def failing(_, pool, stream, capture_error_mode):
        assert pool is None
        assert current[0] is here and capture_error_mode == "thread_local"
        current[0] = stream
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    for name, value in [
        ("device", lambda device: contextlib.nullcontext()),
        ("stream", on),
        ("current_stream", lambda: current[0]),
        ("CUDAGraph", object),
        ("graph", failing),
    ]:
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(graph, "_capture_stream", lambda device: side)
    return current, here, side


def test_a_failed_capture_restores_the_current_stream_and_names_the_cause(streams):
    current, here, side = streams
    total, ran_on = torch.zeros(1), []

    def add(x):
        ran_on.append(current[0])
        total.add_(1)
        if len(ran_on) == 3:
            raise RuntimeError("the operation waits for the device")
        return x + total

    graphed = CUDAGraphed(add, state=[total], capture=capture_graph)
    with pytest.warns(UserWarning, match="which is slower: the operation waits for the device"):
        assert graphed(torch.ones(1)) == 2
    assert ran_on == [side, side, side, here]
    assert current == [here]
    assert total == 1
