"""On a CPU a loaded model runs its layers with less overhead, and gives the same tokens."""

import copy

import pytest
import torch
from backbones import BACKBONES, write_published
from pooled import OPTIONS, assert_same
from torch import nn
from transformers.models.qwen2_vl import modeling_qwen2_vl

from livecc_hf.acceleration import layers as lean
from livecc_hf.acceleration.lean_decoding import LeanDecodeStep
from livecc_hf.checkpoints.checkpoint import open_checkpoint
from livecc_hf.modeling.generation import generate


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:14, :, :84, :112]


@pytest.fixture
def model(make_model):
    return copy.deepcopy(make_model("mrope"))


@pytest.fixture
def stock(model):
    plain = copy.deepcopy(model)
    del plain.model.language_model.forward
    return plain


@pytest.fixture
def n_lean(monkeypatch):
    """Counts calls of lean layers."""
    calls = []
    run = lean._LeanLayer.__call__
    monkeypatch.setattr(lean._LeanLayer, "__call__", lambda self, *args: calls.append(self.index) or run(self, *args))
    return calls


def said(model, processor, frames, **options):
    return model.start_stream(processor, **(vars(OPTIONS) | options)).push(frames)


@pytest.fixture
def steps(monkeypatch):
    """Counts lean decode steps."""
    calls = []
    step = LeanDecodeStep.step
    monkeypatch.setattr(LeanDecodeStep, "step", lambda self, *args: calls.append(1) or step(self, *args))
    return calls


@pytest.mark.parametrize("window", ["sliding", "none"])
def test_a_stream_generates_the_same_as_with_stock_layers(model, stock, processor, frames, n_lean, window):
    expected = said(stock, processor, frames, window=window)
    assert not n_lean
    assert_same(said(model, processor, frames, window=window), expected)
    assert n_lean


def test_batched_streams_generate_the_same_as_with_stock_layers(model, stock, processor, frames, n_lean):
    def side_by_side(which):
        streams = [which.start_stream(processor, **vars(OPTIONS)) for _ in range(2)]
        segments = []
        for stream, part in zip(streams, (frames[:10], frames[4:14]), strict=True):
            stream.feed(part)
        for _ in range(3):
            turns = [stream.begin_turn() for stream in streams]
            generate(which, turns)
            segments += [stream.end_turn(turn) for stream, turn in zip(streams, turns, strict=True)]
        return segments

    assert_same(side_by_side(model), side_by_side(stock))
    assert n_lean


def test_streams_that_end_apart_say_the_same_in_lean_steps(model, stock, processor, frames, steps):
    def together(which):
        streams = [which.start_stream(processor, **vars(OPTIONS)) for _ in range(3)]
        turns = []
        for stream, n_tokens in zip(streams, (2, 9, 5), strict=True):
            stream.feed(frames[:6])
            turns.append(stream.begin_turn())
            turns[-1].stop_ids, turns[-1].max_new_tokens = frozenset(), n_tokens
        generate(which, turns)
        return [stream.end_turn(turn) for stream, turn in zip(streams, turns, strict=True)]

    expected = together(stock)
    assert not steps
    assert_same(together(model), expected)
    assert len(steps) == 8
    assert [len(segment.token_ids) for segment in expected] == [2, 9, 5]


def every_module_hook(model, hook):
    return torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, output: hook(module, args, output) if module is model.lm_head else None
    )


@pytest.mark.parametrize("where", ["body", "embeddings", "head", "every module"])
def test_hooks_around_the_layers_are_followed(model, stock, processor, frames, steps, where):
    calls = []

    def hook(module, args, output):
        calls.append(1)
        return 0.5 * output if isinstance(output, torch.Tensor) else None

    place = {
        "body": lambda which: which.model.language_model.register_forward_hook,
        "embeddings": lambda which: which.get_input_embeddings().register_forward_hook,
        "head": lambda which: which.lm_head.register_forward_hook,
        "every module": lambda which: lambda hook: every_module_hook(which, hook),
    }[where]
    said_by = []
    for which in (stock, model):
        del calls[:]
        handle = place(which)(hook)
        said_by.append(said(which, processor, frames[:6]))
        handle.remove()
        assert len(calls) == len(said_by[-1][0].token_ids)
    assert_same(*said_by)
    assert bool(steps) == (where in ("embeddings", "head"))


class Louder(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, hidden):
        return 1.3 * self.norm(hidden)


def changes(layer, how):
    if how == "hook":
        layer.self_attn.register_forward_hook(lambda module, args, output: (1.2 * output[0], output[1]))
    elif how == "norm":
        layer.input_layernorm = Louder(layer.input_layernorm)
    elif how == "linear":
        layer.self_attn.v_proj.register_forward_hook(lambda module, args, output: 1.2 * output)
    else:
        layer.mlp.register_forward_hook(lambda module, args, output: 0.7 * output)


@pytest.mark.parametrize("how", ["hook", "norm", "linear", "mlp"])
@pytest.mark.parametrize("index", [0, -1])
def test_hooks_and_replaced_modules_take_effect(model, stock, processor, frames, how, index):
    before = said(model, processor, frames[:8])
    for one in (model, stock):
        changes(one.model.language_model.layers[index], how)
    after = said(model, processor, frames[:8])
    assert not torch.allclose(after[0].logits[0], before[0].logits[0], atol=1e-3)
    assert_same(after, said(stock, processor, frames[:8]))


@pytest.mark.parametrize("name", ["Qwen2VLDecoderLayer", "Qwen2VLAttention", "Qwen2VLRMSNorm", "Qwen2VLTextModel"])
def test_a_layer_class_patched_later_runs_its_own_forward(model, stock, processor, frames, monkeypatch, name):
    kind = getattr(modeling_qwen2_vl, name)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *args, **keywords: forward(self, *args, **keywords))
    expected = said(stock, processor, frames[:8])
    assert_same(said(model, processor, frames[:8]), expected)


def test_a_layer_class_with_other_code_is_not_accelerated(stock, monkeypatch):
    kind = modeling_qwen2_vl.Qwen2VLDecoderLayer
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, hidden, **keywords: 1.1 * forward(self, hidden, **keywords))
    lean.use_lean_layers(stock.model.language_model)
    assert "forward" not in vars(stock.model.language_model)
    monkeypatch.undo()
    lean.use_lean_layers(stock.model.language_model)
    assert "forward" in vars(stock.model.language_model)


def test_a_module_without_known_layers_is_not_changed():
    other = nn.Sequential(nn.Linear(2, 2))
    lean.use_lean_layers(other)
    assert "forward" not in vars(other)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_generates_the_same(name, frames, n_lean, tmp_path):
    checkpoint = open_checkpoint(write_published(name, tmp_path / name), position_scheme="mrope")
    model, processor = checkpoint.load_base(device="cpu").eval(), checkpoint.load_processor()
    language_model = model.model.language_model
    vars(language_model).pop("forward", None)
    with torch.no_grad():  # or turned by nothing: what was drawn is small
        for parameter in language_model.parameters():
            parameter.normal_(std=0.2)
    expected = said(model, processor, frames[:8])
    assert not n_lean
    lean.use_lean_layers(language_model)
    assert_same(said(model, processor, frames[:8]), expected)
    assert n_lean


def test_calls_other_than_streams_use_transformers_layers(model, stock, n_lean):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        outputs = [one(input_ids=ids, output_hidden_states=True) for one in (model, stock)]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert len(outputs[0].hidden_states) == len(outputs[1].hidden_states)
    assert not n_lean
