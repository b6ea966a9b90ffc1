"""Streams, pools and training on a device: nothing is mixed with the host, and little waits for the device.

The device is computed on the CPU (see `fake_cuda`), so that a machine without a GPU finds what would fail on one.
"""

import copy
from dataclasses import replace

import pytest
import torch
from backbones import BACKBONES, write_published
from eager_graph import capture_eagerly
from fake_cuda import DEVICE, SECOND_DEVICE, FakeCUDA, to_cuda
from pooled import OPTIONS, assert_same, run_all, taken

from livecc_hf import CommentaryPool
from livecc_hf.acceleration import accelerate
from livecc_hf.acceleration.decoding import FixedDecoding
from livecc_hf.checkpoints.checkpoint import open_checkpoint
from livecc_hf.modeling import model_runner
from livecc_hf.modeling.generation import generate

# For the videos' sizes (also in transformers' own forward pass), and to compare the numbers of features and tokens.
_WAITS_OF_PREFILL = 3
FEW = replace(OPTIONS, max_new_tokens=3)
SAMPLED = replace(FEW, output_logits=False, do_sample=True, top_k=50, repetition_penalty=1.2, seed=0)


@pytest.fixture
def device():
    with FakeCUDA() as device:
        yield device


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:8, :, :84, :112]


def on_device(model, device_of=None):
    """A model that runs as on a GPU, except that replayed steps run eagerly."""
    model = copy.copy(model)
    model.decode_step = None
    model = to_cuda(model, device_of)
    vars(model.model.language_model).pop("forward", None)  # the speedup for CPUs
    accelerate(model).decode_step = FixedDecoding(capture=capture_without_waits)
    return model


def capture_without_waits(*args):
    """As `capture_eagerly`: during a capture, waiting and copies from the host are errors."""
    mode = FakeCUDA.current()
    before = len(mode.waits), len(mode.copies)
    captured = capture_eagerly(*args)
    assert (len(mode.waits), len(mode.copies)) == before
    return captured


def n_waits(device, run):
    """How often a call waits for the device."""
    before = len(device.waits)
    run()
    return len(device.waits) - before


@pytest.mark.parametrize("name", BACKBONES)
def test_a_stream_says_the_same(name, device, frames, tmp_path):
    """Evicting, as every long stream."""
    checkpoint = open_checkpoint(write_published(name, tmp_path / name), position_scheme="mrope")
    model, processor = checkpoint.load_base(device="cpu").eval(), checkpoint.load_processor()
    options = replace(FEW, vision_window_s=1)
    expected = model.start_stream(processor, options).push(frames[:8])
    stream = on_device(model).start_stream(processor, options)
    assert_same(stream.push(frames[:8]), expected)
    assert stream.state.n_evicted
    assert stream.state.cache.memory.layers[0][0].device == DEVICE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_turn_waits_for_its_tokens(dtype, device, frames, make_model, processor):
    """Also a turn that evicts and samples; in 16 bits, keys are saved as they were before any shift."""
    model = on_device(copy.deepcopy(make_model("sequential")).to(dtype))
    stream = model.start_stream(processor, SAMPLED, vision_window_s=1)
    stream.push(frames[:6])
    before = stream.state.n_evicted
    device.attention.clear()
    said = []
    n = n_waits(device, lambda: said.extend(stream.push(frames[6:8])))
    assert stream.state.n_evicted > before
    assert n <= _WAITS_OF_PREFILL + len(said[0].token_ids), device.waits[-n:]
    assert set(device.attention) == ({"efficient"} if dtype == torch.float32 else {"flash", "efficient"})


@pytest.mark.parametrize("window", ["sliding", "none"])
def test_streams_of_a_pool_say_the_same(window, device, frames, make_model, processor):
    """Streams of unequal lengths with their own settings; a round waits as often as its longest turn.

    A stream whose window is not sliding has a cache of its own, and its tokens are not in the others' decode step.
    """
    settings = [
        replace(SAMPLED, max_new_tokens=2),
        replace(SAMPLED, seed=1, temperature=0.7, top_k=0, top_p=0.8, repetition_penalty=1.0),
        replace(FEW, output_logits=False, silence_threshold=0.5, window=window),
    ]
    shown = [frames, frames.flip(3)[:, :, :56], frames.flip(0)]

    def commented(model):
        pool = CommentaryPool(model, processor, max_streams=4, max_lag_s=60)
        streams = [pool.join(options) for options in settings]
        for stream, video in zip(streams, shown):
            stream.push(video[:6])
        run_all(pool)
        for stream, video in zip(streams, shown):
            stream.push(video[6:8])
        before = len(device.waits)
        device.copies.clear()
        pool.step()
        return [taken(stream) for stream in streams], len(device.waits) - before

    expected, _ = commented(make_model("sequential"))
    got, n = commented(on_device(make_model("sequential")))
    assert got == expected
    assert sum("slot_batch.py" in place for _, place in device.copies) == (window == "none")  # not in every layer
    assert n <= _WAITS_OF_PREFILL + max(len(segments[-1].token_ids) for segments in got), device.waits[-n:]


@pytest.mark.parametrize("n_streams", [1, 2])
def test_a_model_on_two_devices_says_the_same(n_streams, device, frames, make_model, processor):
    """The second layer and the head are on another device than the embeddings."""

    def device_of(name):
        return SECOND_DEVICE if name == "lm_head" or "language_model.layers.1" in name else DEVICE

    said = []
    for model in (make_model("mrope"), on_device(make_model("mrope"), device_of)):
        pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
        streams = [pool.join(FEW) for _ in range(n_streams)]
        for stream in streams:
            stream.push(frames)
        run_all(pool)
        said.append([segment for stream in streams for segment in taken(stream)])
        assert pool.stats.n_rounds_apart == 0
    assert_same(said[1], said[0])
    assert {keys.device for keys, _ in pool._memory.layers} == {DEVICE, SECOND_DEVICE}


@pytest.mark.parametrize("is_replayed", [True, False], ids=["replayed", "plain"])
def test_an_answer_and_a_turn_that_is_undone_leave_no_trace(is_replayed, device, frames, make_model, processor):
    model = on_device(make_model("mrope"))
    if not is_replayed:
        model.decode_step = None
    told = make_model("mrope").start_stream(processor, SAMPLED)
    stream = model.start_stream(processor, SAMPLED)
    for each in (told, stream):
        each.push(frames[:6])
    assert stream.answer("What is shown?", max_new_tokens=3) == told.answer("What is shown?", max_new_tokens=3)
    stream.feed(frames[6:8])
    turn = stream.begin_turn()
    generate(model, [turn])
    turn.undo()
    assert stream.finish() == told.push(frames[6:8])


def test_text_is_prefilled_again(device, frames, make_model, processor, monkeypatch):
    monkeypatch.setattr(model_runner, "REPREFILL_S", 3.0)
    model = make_model("sequential")
    options = replace(FEW, window="reprefill")
    expected = model.start_stream(processor, options).push(frames[:8])
    stream = on_device(model).start_stream(processor, options)
    assert_same(stream.push(frames[:8]), expected)
    assert stream.state.n_evicted


def test_tensors_of_host_and_device_are_not_mixed(device):
    """The other tests can fail."""
    there, here = torch.ones(3, device=DEVICE), torch.ones(3)
    for mixed in (lambda: there + here, lambda: here.add_(there), lambda: torch.cat([there, here])):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert n_waits(device, lambda: there + 1) == 0
    assert n_waits(device, lambda: here.pin_memory().to(DEVICE, non_blocking=True)) == 0
    waiting = [
        lambda: there.sum().item(),
        lambda: bool(there.any()),
        lambda: there[there > 0],
        lambda: there.cpu(),
        lambda: here.to(DEVICE),
        lambda: there[torch.tensor([0, 2])],
        lambda: torch.tensor([1.0], device=DEVICE),
        lambda: there.repeat_interleave(there.long()),
    ]
    assert [n_waits(device, run) for run in waiting] == [1] * len(waiting)
