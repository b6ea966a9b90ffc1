"""A decoding step in fixed shapes says what the step made anew each time says; on CUDA it is one graph."""

import gc
import weakref

import pytest
import torch
from pooled import OPTIONS, assert_same, run_all, taken

from livecc_hf import CommentaryPool
from livecc_hf.modeling import cuda_graph, generation
from livecc_hf.modeling.cuda_graph import FixedStep, fixed_step
from livecc_hf.modeling.model_runner import new_memory


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:24, :, :84, :112]


@pytest.fixture
def n_reads(monkeypatch):
    """Makes every step a fixed one; returns the reads so far."""
    reads, read = [], FixedStep.read

    def counted(step, *args):
        reads.append(step)
        return read(step, *args)

    monkeypatch.setattr(cuda_graph, "_is_worth_it", lambda device: True)
    monkeypatch.setattr(FixedStep, "read", counted)
    return reads


@pytest.mark.parametrize("is_ahead", [False, True], ids=["waiting", "ahead"])
@pytest.mark.parametrize("window", ["sliding", "none", "reprefill"])
def test_a_stream_says_the_same(window, is_ahead, frames, make_model, processor, n_reads, monkeypatch):
    model = make_model("mrope")
    with monkeypatch.context() as patch:
        patch.setattr(cuda_graph, "_is_worth_it", lambda device: False)
        expected = model.start_stream(processor, OPTIONS, window=window).push(frames)
    assert not n_reads
    monkeypatch.setattr(generation, "_steps_ahead", lambda device: is_ahead)
    assert_same(model.start_stream(processor, OPTIONS, window=window).push(frames), expected)
    assert len(n_reads) > 3 * len(expected)


@pytest.mark.parametrize("is_ahead", [False, True], ids=["waiting", "ahead"])
def test_streams_of_a_pool_say_the_same_whoever_speaks(is_ahead, frames, make_model, processor, n_reads, monkeypatch):
    model = make_model("sequential")
    shown = [frames, frames.flip(0)[:12], frames.flip(3)[:18]]
    lengths = [6, 1, 3]  # so that some are silent in each step
    alone = []
    with monkeypatch.context() as patch:
        patch.setattr(cuda_graph, "_is_worth_it", lambda device: False)
        for video, length in zip(shown, lengths):
            alone.append(model.start_stream(processor, OPTIONS, max_new_tokens=length).push(video))
    monkeypatch.setattr(generation, "_steps_ahead", lambda device: is_ahead)
    pool = CommentaryPool(model, processor, max_streams=4, max_lag_s=60)
    streams = [pool.join(OPTIONS, max_new_tokens=length) for length in lengths]
    pool.join(OPTIONS)  # never speaks
    for stream, video in zip(streams, shown):
        stream.push(video)
    run_all(pool)
    for stream, expected in zip(streams, alone):
        assert_same(taken(stream), expected)
    assert n_reads


def test_a_step_is_kept_until_the_memory_grows(frames, make_model, processor, n_reads):
    stream = make_model("mrope").start_stream(processor, OPTIONS, window="none")
    stream.push(frames[:12])
    assert len(set(map(id, n_reads))) == 1  # 4 turns
    capacity = stream.state.cache.memory.capacity
    while stream.state.cache.memory.capacity == capacity:
        stream.push(frames[:2])
    stream.push(frames[:2])
    assert len(set(map(id, n_reads))) == 2


def test_it_goes_with_its_stream(frames, make_model, processor, n_reads):
    stream = make_model("mrope").start_stream(processor, OPTIONS)
    stream.push(frames[:12])
    memory = weakref.ref(stream.state.cache.memory)
    assert memory().step is not None
    gc.disable()  # on a GPU it would keep gigabytes until garbage is collected
    try:
        n_reads.clear()
        del stream
        assert memory() is None
    finally:
        gc.enable()


def test_there_is_none_where_something_hangs_on_a_module(make_model, monkeypatch):
    monkeypatch.setattr(cuda_graph, "_is_worth_it", lambda device: True)
    model = make_model("mrope")
    for module in (model.model.language_model.layers[0].mlp.up_proj, model.lm_head, model.get_input_embeddings()):
        hook = module.register_forward_hook(lambda *_: None)
        assert fixed_step(model, new_memory(model), 10) is None
        hook.remove()


def test_on_a_cpu_there_is_none(make_model):
    assert fixed_step(make_model("mrope"), new_memory(make_model("mrope")), 10) is None


def test_it_runs_under_autocast(frames, make_model, processor, n_reads):
    """As the live commentary of a float32 model that trains in bfloat16 does."""
    model = make_model("mrope")
    with torch.autocast("cpu", torch.bfloat16):
        segments = model.start_stream(processor, OPTIONS).push(frames[:10])
    assert n_reads
    assert all(segment.token_ids for segment in segments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_says_what_the_layers_say(frames, make_model, processor, monkeypatch):
    model = make_model("mrope").to("cuda")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(cuda_graph, "_is_worth_it", lambda device: False)
            expected = model.start_stream(processor, OPTIONS).push(frames)
        stream = model.start_stream(processor, OPTIONS)
        got = stream.push(frames)
        step = stream.state.cache.memory.step[1]
        assert step._graph is not None
        assert [s.token_ids for s in got] == [s.token_ids for s in expected]
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a.logits, b.logits, atol=1e-3, rtol=0)
    finally:
        model.to("cpu")
