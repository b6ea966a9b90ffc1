"""A stream generates the same as one pass over the conversation, however its frames arrive."""

import contextlib
import statistics
from pathlib import Path

import pytest
import torch
from greedy import GREEDY
from operations import Operations

from livecc_hf.acceleration import accelerate
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.modeling import ContextFullError, LiveCCForConditionalGeneration, StreamOptions, generation


def run(stream, frames, portions):
    """Push `frames` in portions of the given sizes (the last size repeats) and finish."""
    segments, i = [], 0
    sizes = iter(portions)
    size = None
    while i < len(frames):
        size = next(sizes, size)
        segments += stream.push(frames[i : i + size])
        i += size
    return segments + stream.finish()


def one_shot_logits(model, processor, stream, segments, frames):
    """Logits of every generated position from one forward over the stream's whole conversation."""
    ids = torch.tensor([stream.state.token_ids + list(segments[-1].token_ids[-1:])])
    patches, grids = [], []
    for span_frames in [frames[:6], *frames[6:].split(2)]:
        turn_patches, grid = processor.video_processor.frames_to_patches(span_frames, max_pixels=GREEDY["max_pixels"])
        patches.append(turn_patches)
        grids.append(grid)
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            mm_token_type_ids=torch.tensor(processor.create_mm_token_type_ids(ids)),
            pixel_values_videos=torch.cat(patches),
            video_grid_thw=torch.cat(grids),
        ).logits[0]
    # A token's logits are those of the position before it; turns follow each answer prompt.
    header = processor.tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    ids = ids[0].tolist()
    starts = [i + len(header) for i in range(len(ids)) if ids[i : i + len(header)] == header]
    return [logits[s - 1 : s - 1 + len(g.token_ids)] for s, g in zip(starts, segments, strict=True)]


@pytest.mark.parametrize("scheme", ["mrope", "sequential", "reference"])
@pytest.mark.parametrize("portions", [[1], [3, 5, 1], [16]], ids=["one by one", "odd portions", "all at once"])
def test_streaming_equals_one_shot(scheme, portions, frames, make_model, processor):
    model = make_model(scheme)
    stream = model.start_stream(processor, query="Comment.", **GREEDY)
    segments = run(stream, frames, portions)
    assert len(segments) == 6
    for segment, logits in zip(segments, one_shot_logits(model, processor, stream, segments, frames), strict=True):
        torch.testing.assert_close(segment.logits, logits, atol=1e-4, rtol=0)

    stream.reset()
    again = run(stream, frames, [16])
    assert again == segments
    for segment, other in zip(segments, again):
        torch.testing.assert_close(segment.logits, other.logits, atol=1e-4, rtol=0)


def test_one_shot_reference_finds_the_first_turn_by_the_message_end(frames, processor, published_checkpoint):
    """Also if the language model's eos is another token."""
    model, _, _ = load_model_and_processor(published_checkpoint, position_scheme="reference")
    model.config.text_config.eos_token_id = processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    stream = model.start_stream(processor, **GREEDY)
    segments = stream.push(frames)
    for segment, logits in zip(segments, one_shot_logits(model, processor, stream, segments, frames), strict=True):
        torch.testing.assert_close(segment.logits, logits, atol=1e-4, rtol=0)


def test_the_caller_may_reuse_its_frame_buffer(frames, make_model, processor):
    model = make_model("mrope")
    whole = model.start_stream(processor, **GREEDY).push(frames)
    stream, buffer, segments = model.start_stream(processor, **GREEDY), torch.empty_like(frames[:1]), []
    for frame in frames:
        buffer[0] = frame
        segments += stream.push(buffer)
    assert segments == whole
    for a, b in zip(segments, whole):
        torch.testing.assert_close(a.logits, b.logits)


def test_interleaved_streams_do_not_affect_each_other(frames, make_model, processor):
    model = make_model("mrope")
    options = StreamOptions(**GREEDY)
    pairs = [(frames, "Comment."), (frames.flip(0), "What moves?")]
    alone = [run(model.start_stream(processor, options, query=query), f, [16]) for f, query in pairs]
    streams = [model.start_stream(processor, options, query=query) for _, query in pairs]
    mixed = [[], []]
    for i in range(0, len(frames), 2):
        for k, (f, _) in enumerate(pairs):
            mixed[k] += streams[k].push(f[i : i + 2])
        model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False)  # an unrelated call in between
    for k in range(2):
        mixed[k] += streams[k].finish()
        assert mixed[k] == alone[k]
        for a, b in zip(mixed[k], alone[k], strict=True):
            torch.testing.assert_close(a.logits, b.logits)


def test_a_turn_cut_by_the_token_limit_keeps_its_last_token(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **(GREEDY | {"max_new_tokens": 1, "repetition_penalty": 1.0}))
    stream._sampler.end_ids = frozenset()
    segments = stream.push(frames[:8])
    assert [segment.was_cut for segment in segments] == [True, True]
    said = segments[0].token_ids[0]
    end = processor.tokenizer("<|im_end|>\n<|im_start|>user\nTime=3.0-", add_special_tokens=False)["input_ids"]
    ids = stream.state.token_ids
    at = next(i for i in range(len(ids)) if ids[i : i + len(end)] == end)
    assert ids[at - 1] == said


def test_a_new_query_enters_with_the_next_turn(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, query="First.", title="Balls", **GREEDY)
    stream.push(frames[:7])
    stream.ask("Other.")
    stream.ask("First.")  # back to the first query: nothing to write
    stream.push(frames[7:8])
    stream.ask("Second.")
    stream.push(frames[8:12])
    text = processor.tokenizer.decode(stream.state.token_ids).replace("<|video_pad|>", "")
    assert "Time=0.0-3.0s<|vision_start|><|vision_end|>First.\nBalls<|im_end|>" in text
    assert "Time=3.0-4.0s<|vision_start|><|vision_end|><|im_end|>" in text
    assert "Time=4.0-5.0s<|vision_start|><|vision_end|>Second.<|im_end|>" in text
    assert "Time=5.0-6.0s<|vision_start|><|vision_end|><|im_end|>" in text


def test_a_query_asked_while_a_turn_is_generated_enters_with_the_next_one(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, query="First.", do_sample=False, max_new_tokens=2)
    asked = processor.tokenizer("Second.", add_special_tokens=False)["input_ids"]

    def n_asked():
        ids = stream.state.token_ids
        return sum(ids[i : i + len(asked)] == asked for i in range(len(ids)))

    for shown in (frames[:6], frames[6:8]):  # in the first turn, and in a later one
        stream.feed(shown)
        turn = stream.begin_turn()
        stream.ask("Second.")
        generation.generate(stream._model, [turn])
        stream.end_turn(turn)
    assert n_asked() == 1  # in the second turn only
    stream.push(frames[8:10])
    assert n_asked() == 1


@pytest.mark.parametrize("window", ["sliding", "none", "reprefill"])
def test_warming_up_does_not_change_the_commentary(window, frames, make_model, processor):
    model = make_model("mrope")
    options = GREEDY | {"window": window, "do_sample": True, "seed": 3}
    expected = model.start_stream(processor, query="Other.", **options).push(frames)
    stream = model.start_stream(processor, **options)
    stream.ask("Other.")
    stream.warm_up()
    memory = stream.state.cache.memory
    capacity = memory.capacity
    assert stream.push(frames) == expected
    assert stream.state.cache.memory is memory
    assert memory.capacity >= capacity > 0
    finished = model.start_stream(processor, **options)
    finished.finish()
    for used in (stream, finished):
        with pytest.raises(ValueError, match=r"after the first frames, or after finish\(\): call reset\(\)"):
            used.warm_up()
    with pytest.raises(RuntimeError, match=r"push\(\) after finish\(\)"):
        finished.push(frames[:2])


@pytest.mark.parametrize("frame_px", ["x", (28,), (28, 0), (28, 2.5), 28, None, (True, 28)])
def test_a_warm_up_refuses_an_invalid_frame_size(frame_px, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    with pytest.raises(ValueError, match="frame_px=.*: expected height and width in pixels"):
        stream.warm_up(frame_px)


def test_a_reset_stream_reads_no_stale_cache(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    expected = stream.push(frames)
    for held in stream.state.cache.memory._groups[0].held:
        held.fill_(torch.nan)
    stream.reset()
    assert stream.push(frames) == expected


def test_undoing_a_turn_leaves_no_trace_in_the_cache(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    expected = stream.push(frames)
    stream.reset()
    stream.feed(frames)
    said = []
    while (turn := stream.begin_turn()) is not None:
        generation.generate(stream._model, [turn])
        cache = stream.state.cache
        for held in cache.memory._groups[0].held:
            held[:, :, :, turn.before[0] :] = torch.nan  # the part that it wrote
        turn.undo()
        turn = stream.begin_turn()
        generation.generate(stream._model, [turn])
        said.append(stream.end_turn(turn))
        assert all(held.isfinite().all() for held in cache.memory._groups[0].held)
    assert said == expected


def test_an_answer_does_not_change_the_commentary(frames, make_model, processor):
    model = make_model("mrope")
    asked, plain = (model.start_stream(processor, **GREEDY) for _ in range(2))
    asked.push(frames[:8])
    plain.push(frames[:8])
    answer = asked.answer("Who has the ball?", max_new_tokens=5)
    assert isinstance(answer, str)
    assert asked.answer("Who has the ball?", max_new_tokens=5) == answer
    a, b = asked.push(frames[8:]), plain.push(frames[8:])
    assert a == b
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one.logits, other.logits)


def test_an_answer_does_not_advance_the_commentarys_random_generator(frames, make_model, processor):
    model = make_model("mrope")
    options = {"do_sample": True, "temperature": 3.0, "seed": 3, "max_new_tokens": 6, "max_pixels": 50176}
    asked, plain = (model.start_stream(processor, **options) for _ in range(2))
    assert asked.push(frames[:8]) == plain.push(frames[:8])
    asked.answer("Who?", max_new_tokens=4)
    assert asked.push(frames[8:]) == plain.push(frames[8:])


def test_stream_generate_yields_each_segment_as_soon_as_its_frames_are_read(frames, make_model, processor):
    model = make_model("mrope")
    shown = []

    def source():
        for chunk in frames.split(2):
            shown.append(len(chunk))
            yield chunk

    segments = model.stream_generate(processor, source(), **GREEDY)
    first = next(segments)
    assert sum(shown) == 6
    rest = list(segments)
    stream = model.start_stream(processor, **GREEDY)
    assert [first, *rest] == stream.push(frames) + stream.finish()


def test_stream_generate_yields_the_turns_before_a_full_context(frames, make_model, processor):
    model = make_model("mrope")
    text_config = model.config.text_config
    before = text_config.max_position_embeddings
    expected = model.start_stream(processor, **GREEDY).push(frames)
    text_config.max_position_embeddings = 180
    try:
        got = []
        with pytest.raises(ContextFullError):
            for segment in model.stream_generate(processor, frames, **GREEDY):
                got.append(segment)
        assert got
        assert got == expected[: len(got)]
    finally:
        text_config.max_position_embeddings = before


def test_discard_waiting_drops_the_waiting_frames(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    stream.push(frames[:5])
    assert stream.discard_waiting() == 5
    assert stream.push(frames[:5]) == []
    assert [(s.start_s, s.end_s) for s in stream.push(frames[5:8])] == [(0, 3), (3, 4)]


def test_a_stream_whose_first_frames_were_discarded_starts_with_the_next(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    stream.push(frames[:4], [0, 0.5, 1, 1.5])
    stream.discard_waiting()
    segments = stream.push(frames[:8], [100 + n / 2 for n in range(8)])
    assert [(s.start_s, s.end_s) for s in segments] == [(100, 103), (103, 104)]


def test_a_bfloat16_model_streams_finite_logits(frames, published_checkpoint):
    model, processor, _ = load_model_and_processor(published_checkpoint, dtype="bfloat16", position_scheme="mrope")
    segments = model.start_stream(processor, **GREEDY).push(frames[:8])
    assert len(segments) == 2
    assert all(torch.isfinite(segment.logits).all() for segment in segments)


def test_a_lora_model_streams(frames, published_checkpoint):
    peft = pytest.importorskip("peft")
    model, processor, _ = load_model_and_processor(published_checkpoint, position_scheme="mrope")
    plain = model.start_stream(processor, **GREEDY).push(frames[:8])
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"])).eval()
    assert wrapped.start_stream(processor, **GREEDY).push(frames[:8]) == plain


def test_training_in_the_reference_scheme_is_an_error(make_model):
    model = make_model("reference")
    model.train()
    try:
        with pytest.raises(ValueError, match="inference only.*mrope, sequential"):
            model(input_ids=torch.tensor([[1, 2, 3]]))
    finally:
        model.eval()


def test_steps_launched_ahead_and_discarded_do_not_change_the_commentary(frames, make_model, processor, monkeypatch):
    """As on CUDA, where a step is launched before the last one's token is known."""
    model = make_model("mrope")
    options = StreamOptions(**(GREEDY | {"stop_at_continuation": True}), vision_window_s=3)
    expected = model.start_stream(processor, options)
    segments = expected.push(frames)
    assert len({len(segment.token_ids) for segment in segments}) > 1  # some end early, some at the limit
    monkeypatch.setattr(generation, "_runs_async", lambda device: True)
    stream = model.start_stream(processor, options)
    got = stream.push(frames)
    assert got == segments
    assert stream.state.token_ids == expected.state.token_ids
    assert stream.state.cache.length == len(stream.state.token_ids)
    for a, b in zip(got, segments):
        torch.testing.assert_close(a.logits, b.logits, atol=0, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", ["mrope", "sequential", "reference"])
def test_a_stream_on_cuda_equals_the_stream_on_the_cpu(scheme, frames, published_checkpoint, make_model, processor):
    options = StreamOptions(**GREEDY, vision_window_s=3, text_window=60)
    expected = make_model(scheme).start_stream(processor, options).push(frames)
    model = load_model_and_processor(published_checkpoint, device="cuda", dtype="float32", position_scheme=scheme)[0]
    got = model.start_stream(processor, options).push(frames)
    assert [s.token_ids for s in got] == [s.token_ids for s in expected]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_the_cost_of_a_turn_does_not_grow_over_two_hours(frames, make_model, processor):
    """7,200 turns: operations, memory and positions do not grow."""
    stream = make_model("mrope").start_stream(
        processor, do_sample=False, max_new_tokens=6, max_pixels=28 * 28 * 12, min_pixels=28 * 28 * 4
    )
    counts, lengths, resident, positions = [], [], [], []
    for turn in range(7200):
        begin = 2 * (turn % 7)
        shown = frames[:6] if turn == 0 else frames[begin : begin + 2]
        operations = Operations()
        with operations if 600 <= turn < 640 or turn >= 7160 else contextlib.nullcontext():
            stream.push(shown)
        counts += [len(operations.names)] if operations.names else []
        lengths.append(stream.state.cache.length)
        if turn % 60 == 0:
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]))
        positions.append(stream.state.next_position)
    assert len(counts) == 80
    assert statistics.median(counts[40:]) <= 1.1 * statistics.median(counts[:40])
    assert statistics.median(lengths[-600:]) <= 1.02 * statistics.median(lengths[600:1200])
    assert resident[-1] <= 1.02 * resident[10]
    assert max(positions[600:]) <= max(positions[300:600]) + 32
    assert max(positions) < 2048


@pytest.mark.parametrize("is_accelerated", [False, True])
def test_a_stream_leaves_no_tensor_that_training_cannot_use(is_accelerated, frames, published_checkpoint, processor):
    """Turns run in inference mode, whose tensors autograd refuses; the same model is trained afterwards."""
    model = LiveCCForConditionalGeneration.from_pretrained(published_checkpoint, position_scheme="mrope").eval()
    if is_accelerated:
        accelerate(model)
    segment = model.start_stream(processor, query="Comment.", **GREEDY).push(frames[:6])[0]
    logits = segment.logits.requires_grad_()
    logits.logsumexp(-1).sum().backward()
    assert logits.grad.isfinite().all()

    patches, grid = processor.video_processor.frames_to_patches(frames[:6], max_pixels=GREEDY["max_pixels"])
    ids = torch.tensor([processor.turn_ids(0.0, 3.0, int(grid.prod()) // 4, "Comment.", is_first=True)])
    types = torch.tensor(processor.create_mm_token_type_ids(ids))
    inputs = {"mm_token_type_ids": types, "pixel_values_videos": patches, "video_grid_thw": grid}
    model.train()(input_ids=ids, labels=ids, **inputs).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())
