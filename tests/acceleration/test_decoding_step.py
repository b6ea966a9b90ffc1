"""A decode step in fixed shapes gives the same tokens as the plain one; on CUDA it is one graph."""

import copy
import gc
import weakref

import pytest
import torch
from eager_graph import capture_eagerly
from pooled import OPTIONS, assert_same, run_all, taken

from livecc_hf import CommentaryPool
from livecc_hf.acceleration import accelerate
from livecc_hf.acceleration.decoding import DecodeStep, FixedDecoding
from livecc_hf.acceleration.graph import graphs_disabled
from livecc_hf.modeling import generation


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:24, :, :84, :112]


@pytest.fixture
def steps_run(monkeypatch):
    """The steps so far: the object, once for each token."""
    run, step_of = [], DecodeStep.step

    def counted(step, *args):
        run.append(step)
        return step_of(step, *args)

    monkeypatch.setattr(DecodeStep, "step", counted)
    return run


@pytest.fixture
def fixed(make_model):
    """A function that returns a model whose steps are replayed as on a GPU."""

    def make(scheme="mrope"):
        model = copy.deepcopy(make_model(scheme))
        del model.model.language_model.forward  # the speedup for CPUs
        model.decode_step = FixedDecoding(devices=["cpu"], capture=capture_eagerly)
        return model

    return make


@pytest.mark.parametrize("is_ahead", [False, True], ids=["waiting", "ahead"])
@pytest.mark.parametrize("window", ["sliding", "none", "reprefill"])
def test_a_stream_generates_the_same_with_replayed_steps(
    window, is_ahead, frames, make_model, fixed, processor, steps_run, monkeypatch
):
    expected = make_model("mrope").start_stream(processor, OPTIONS, window=window).push(frames)
    assert not steps_run
    monkeypatch.setattr(generation, "_runs_async", lambda device: is_ahead)
    assert_same(fixed().start_stream(processor, OPTIONS, window=window).push(frames), expected)
    assert len(steps_run) > 3 * len(expected)
    assert all(len(step.graphed.graphs) == 1 for step in steps_run)


@pytest.mark.parametrize("is_replayed", [True, False], ids=["replayed", "called"])
@pytest.mark.parametrize("is_ahead", [False, True], ids=["waiting", "ahead"])
def test_pooled_streams_generate_the_same_with_inactive_slots(
    is_ahead, is_replayed, frames, make_model, fixed, processor, steps_run, monkeypatch
):
    shown = [frames, frames.flip(0)[:12], frames.flip(3)[:18]]
    lengths = [6, 1, 3]  # so that some slots are inactive in each step
    alone = []
    for video, length in zip(shown, lengths):
        alone.append(make_model("sequential").start_stream(processor, OPTIONS, max_new_tokens=length).push(video))
    monkeypatch.setattr(generation, "_runs_async", lambda device: is_ahead)
    model = fixed("sequential")
    pool = CommentaryPool(model, processor, max_streams=4, max_lag_s=60)
    streams = [pool.join(OPTIONS, max_new_tokens=length) for length in lengths]
    pool.join(OPTIONS)  # never gets frames
    for stream, video in zip(streams, shown):
        stream.push(video)
    hook = None if is_replayed else model.lm_head.register_forward_hook(lambda *_: None)
    try:
        run_all(pool)
    finally:
        if hook is not None:
            hook.remove()
    for stream, expected in zip(streams, alone):
        assert_same(taken(stream), expected)
    assert steps_run
    assert bool(len(steps_run[-1].graphed.graphs)) is is_replayed


def test_a_step_computes_the_used_slots_rounded_up_to_a_power_of_two(frames, fixed, processor, steps_run):
    """The slots up to the highest active one, rounded up to a power of two, at most all."""
    pool = CommentaryPool(fixed(), processor, max_streams=6)
    sizes, streams = [], [pool.join(OPTIONS) for _ in range(6)]
    assert [stream._stream.state.cache.slot for stream in streams] == list(range(6))  # on CUDA the pool starts with all
    for stream in streams:
        stream.push(frames[:6])
        run_all(pool)
        sizes.append([len(graph.inputs[0]) for graph in steps_run[-1].graphed.graphs])
    assert sizes == [[1], [1, 2], [1, 2, 4], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 6]]


def test_a_captured_step_is_reused_until_the_cache_is_reallocated(frames, fixed, processor, steps_run):
    stream = fixed().start_stream(processor, OPTIONS, window="none")
    stream.push(frames[:12])
    assert len(set(steps_run)) == 1  # 4 turns
    capacity = stream.state.cache.memory.capacity
    while stream.state.cache.memory.capacity == capacity:
        stream.push(frames[:2])
    stream.push(frames[:2])
    assert len(set(steps_run)) == 2


@pytest.fixture
def no_collector():
    """Without the garbage collector, until which a cycle would keep gigabytes of GPU memory."""
    gc.disable()
    yield
    gc.enable()


def test_the_captured_step_is_freed_with_its_stream(frames, fixed, processor, steps_run, no_collector):
    stream = fixed().start_stream(processor, OPTIONS)
    stream.push(frames[:12])
    memory = stream.state.cache.memory
    alive = [weakref.ref(each) for each in (memory, memory.step, *memory.layers[0])]
    assert memory.step.graphed.graphs
    steps_run.clear()
    del stream, memory
    assert [each() for each in alive] == [None] * len(alive)


def test_a_model_with_hooks_has_no_captured_step(frames, fixed, processor, steps_run):
    model = fixed()
    for module in (model.model.language_model.layers[0].mlp.up_proj, model.lm_head, model.get_input_embeddings()):
        calls = []
        hook = module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        segment = model.start_stream(processor, OPTIONS).push(frames[:6])[0]
        hook.remove()
        assert not steps_run
        assert len(calls) >= len(segment.token_ids)
    with graphs_disabled():
        model.start_stream(processor, OPTIONS).push(frames[:6])
    assert not steps_run


def test_models_on_a_cpu_have_no_captured_step(make_model):
    model = accelerate(copy.copy(make_model("mrope")))
    assert not isinstance(model.decode_step, FixedDecoding)
    assert isinstance(accelerate(copy.deepcopy(model).to("meta")).decode_step, FixedDecoding)


def test_steps_run_uncaptured_under_autocast(frames, fixed, processor, steps_run):
    """As for live commentary of a float32 model that trains in bfloat16; earlier graphs are kept."""
    model = fixed()
    pool = CommentaryPool(model, processor, max_streams=2)
    streams = [pool.join(OPTIONS), pool.join(OPTIONS)]
    for autocast in (False, True):
        for stream in streams:
            stream.push(frames[:6] if not autocast else frames[6:8])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            run_all(pool)
    assert len(steps_run[-1].graphed.graphs) == 1
    assert all(len(taken(stream)) == 2 for stream in streams)


def lora_model(model):
    """A model with two unmerged adapters that change its output."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    for name in ("first", "second"):
        # By PEFT itself: transformers 5.24's `add_adapter` wants PEFT 0.22, which nothing else here needs.
        config = peft.LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
        peft.inject_adapter_in_model(config, model, name)
    switch_adapter(model, "first")
    return model.eval()


def switch_adapter(model, name):
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(name)


def four_bit_model(model):
    """A model with those matrices in 4 bits whose width bitsandbytes takes on a CPU: one a layer."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    for layer in model.model.language_model.layers:
        for name, linear in list(layer.named_modules()):
            if isinstance(linear, torch.nn.Linear) and linear.in_features % 64 == 0:
                n_in, n_out, has_bias = linear.in_features, linear.out_features, linear.bias is not None
                held = bitsandbytes.nn.Linear4bit(n_in, n_out, has_bias, torch.float32, quant_type="nf4")
                held.load_state_dict(linear.state_dict())
                layer.set_submodule(name, held.to("cpu"))
    assert sum(type(module).__name__ == "Linear4bit" for module in model.modules()) == 3
    return model


@pytest.mark.parametrize("make", [lora_model, four_bit_model])
def test_adapters_and_4_bit_weights_are_replayed(make, frames, make_model, processor, steps_run):
    model = make(copy.deepcopy(make_model("mrope")))
    plain = make_model("mrope").start_stream(processor, OPTIONS).push(frames[:10])
    expected = model.start_stream(processor, OPTIONS).push(frames[:10])
    assert not torch.allclose(plain[0].logits[0], expected[0].logits[0], atol=1e-3)
    assert not steps_run
    model.decode_step = FixedDecoding(devices=["cpu"], capture=capture_eagerly)
    assert_same(model.start_stream(processor, OPTIONS).push(frames[:10]), expected)
    assert all(len(step.graphed.graphs) == 1 for step in steps_run)


def test_switching_an_adapter_takes_effect_in_replayed_steps(frames, fixed, processor, steps_run):
    model = lora_model(fixed("mrope"))
    said = []
    for decode_step in (None, FixedDecoding(devices=["cpu"], capture=capture_eagerly)):
        model.decode_step = decode_step
        stream, segments = model.start_stream(processor, OPTIONS), []
        for name, clip in (("first", frames[:8]), ("second", frames[8:10]), ("first", frames[10:12])):
            switch_adapter(model, name)
            segments += stream.push(clip)
        said.append(segments)
    assert_same(*said)
    assert len({id(step) for step in steps_run}) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("n_streams", [1, 3])
def test_a_captured_step_equals_eager_layers_on_cuda(n_streams, frames, make_model, processor):
    model = accelerate(copy.deepcopy(make_model("mrope")).to("cuda"))

    def commented():
        pool = CommentaryPool(model, processor, max_streams=4, max_lag_s=60)
        streams = [pool.join(OPTIONS) for _ in range(n_streams)]
        for i, stream in enumerate(streams):
            stream.push(frames.flip(3) if i % 2 else frames)
        run_all(pool)
        return [segment for stream in streams for segment in taken(stream)], pool._memory.step

    with graphs_disabled():
        expected, _ = commented()
    got, step = commented()
    assert len(step.graphed.graphs) == 1
    assert [s.token_ids for s in got] == [s.token_ids for s in expected]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=1e-3, rtol=0)


@pytest.mark.gpu
def test_no_synchronisation_between_prefill_and_the_first_token(frames, make_model, processor):
    """The first token is sampled, and the next step prepared, while the device still computes."""
    model = accelerate(copy.deepcopy(make_model("mrope")).to("cuda"))
    stream = model.start_stream(processor, OPTIONS, do_sample=True, seed=0, output_logits=False)
    stream.push(frames[:6])  # the step is captured
    stream.feed(frames[6:8])
    turn = stream.begin_turn()

    def strict_in_between(part, run):
        def traced(*args):
            torch.cuda.set_sync_debug_mode("default")
            found = run(*args)
            torch.cuda.set_sync_debug_mode("error" if part == "prefill" else "default")
            return found

        return traced

    try:
        generation.generate(model, [turn], strict_in_between)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert stream.end_turn(turn).token_ids
