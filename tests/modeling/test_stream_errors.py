"""Every failure of a stream is one clear error, and leaves the stream unchanged."""

import pytest
import torch

from livecc_hf.modeling import ContextFullError, StreamFinishedError

GREEDY = {"do_sample": False, "max_new_tokens": 6, "output_logits": True, "max_pixels": 50176}


def test_a_full_context_is_one_clear_error(frames, make_model, processor):
    model = make_model("mrope")
    text_config = model.config.text_config
    before = text_config.max_position_embeddings
    whole = model.start_stream(processor, **GREEDY)
    segments = whole.push(frames)
    try:
        text_config.max_position_embeddings = 180
        stream = model.start_stream(processor, **GREEDY)
        with pytest.raises(ContextFullError, match=r"180 \(max_position_embeddings\).*reset") as caught:
            stream.push(frames)
        assert 0 < len(caught.value.segments) < len(segments)
        assert list(caught.value.segments) == segments[: len(caught.value.segments)]
        assert stream.answer("Why?", max_new_tokens=2) is not None
        with pytest.raises(ContextFullError):
            stream.answer("Why?", max_new_tokens=1000)
        stream.reset()
        assert stream.push(frames[:6]) == segments[:1]
    finally:
        text_config.max_position_embeddings = before


def test_a_failed_turn_leaves_the_stream_unchanged(frames, make_model, processor):
    model = make_model("mrope")
    whole = model.start_stream(processor, **GREEDY).push(frames[:14])
    assert len(whole[2].token_ids) > 1
    stream = model.start_stream(processor, **GREEDY)
    stream.push(frames[:6])
    calls = []

    def interrupted(token_ids, scores):
        calls.append(1)
        if len(calls) == len(whole[1].token_ids) + 2:  # in the middle of the second turn of the push
            raise KeyboardInterrupt
        return scores

    stream._sampler.processors.append(interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.push(frames[6:12])
    assert stream.push(frames[12:14]) == whole[1:]


BAD_PUSHES = {
    "empty": (torch.zeros(0, 3, 56, 56, dtype=torch.uint8), r"empty \(T = 0\)"),
    "float": (torch.zeros(2, 3, 56, 56), "float32: expected torch.uint8"),
    "channels last": (torch.zeros(2, 56, 56, 3, dtype=torch.uint8), r"\(2, 56, 56, 3\): expected \(T, 3, H, W\)"),
    "one frame without T": (torch.zeros(3, 56, 56, dtype=torch.uint8), r"\(3, 56, 56\): expected"),
    "too long a side": (torch.zeros(1, 3, 1, 300, dtype=torch.uint8), "300x1 pixels: expected sides with a ratio"),
    "no frames": ([[1]], "type list: expected a torch.Tensor"),
}


@pytest.mark.parametrize("name", BAD_PUSHES)
def test_a_bad_push_is_one_clear_error_and_changes_nothing(name, frames, make_model, processor):
    bad, message = BAD_PUSHES[name]
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    good = stream.push(frames[:8])
    stream.reset()
    stream.push(frames[:5])
    with pytest.raises(ValueError, match=message):
        stream.push(bad)
    assert stream.push(frames[5:8]) == good


def test_the_frame_size_may_change_after_a_complete_turn_that_still_waits(frames, make_model, processor):
    model = make_model("mrope")
    pieces = [frames[:6], frames[6:8, :, :50, :60], frames[8:9]]
    expected, waiting = model.start_stream(processor, **GREEDY), model.start_stream(processor, **GREEDY)
    segments = [segment for piece in pieces for segment in expected.push(piece)]
    for piece in pieces:
        waiting.feed(piece)
    with pytest.raises(ValueError, match="60x50 pixels, but the waiting frames of the same turn are 130x96"):
        waiting.feed(frames[9:10, :, :50, :60])
    assert len(segments) == 2
    assert waiting.push(frames[9:10]) == segments + expected.push(frames[9:10])


def test_bad_times_sizes_options_and_states(frames, make_model, processor):
    model = make_model("mrope")
    stream = model.start_stream(processor, **GREEDY)
    with pytest.raises(ValueError, match="got 2 frames but 1 timestamps"):
        stream.push(frames[:2], [0.0])
    with pytest.raises(ValueError, match=r"go back from 1.0 s to 0.5 s"):
        stream.push(frames[:2], [1.0, 0.5])
    with pytest.raises(ValueError, match="timestamp 1 is nan"):
        stream.push(frames[:2], [0.0, float("nan")])
    with pytest.raises(ValueError, match="timestamp 0 is inf"):
        stream.push(frames[:1], [float("inf")])
    with pytest.raises(ValueError, match="nothing has been seen yet"):
        stream.answer("Who?")
    stream.push(frames[:2], [0.0, 0.5])
    with pytest.raises(ValueError, match="some pushes only"):
        stream.push(frames[:2])
    with pytest.raises(ValueError, match="60x50 pixels, but the waiting frames of the same turn are 130x96"):
        stream.push(frames[:1, :, :50, :60], [1.0])
    with pytest.raises(ValueError, match="expected some text"):
        stream.ask(" ")
    with pytest.raises(ValueError, match=r"special token <\|im_end\|>"):
        stream.ask("x<|im_end|>y")
    stream.finish()
    for action in (lambda: stream.push(frames[:2]), stream.finish, lambda: stream.ask("x")):
        with pytest.raises(StreamFinishedError, match=r"after finish\(\).*reset"):
            action()
    with pytest.raises(ValueError, match="both sides must be multiples of 28"):
        model.start_stream(processor, do_resize=False).push(frames[:2])
    with pytest.raises(ValueError, match="unknown stream option 'quary'"):
        model.start_stream(processor, quary="x")
    with pytest.raises(ValueError, match="temperature=0: expected a number above 0"):
        model.start_stream(processor, temperature=0)
    with pytest.raises(ValueError, match="top_k=50.0: expected a whole number"):
        model.start_stream(processor, top_k=50.0)
    with pytest.raises(ValueError, match="special token"):
        model.start_stream(processor, title="x<|im_end|>y")
    with pytest.raises(ValueError, match="is a Qwen2Tokenizer.*expected a StreamingProcessor"):
        model.start_stream(processor.tokenizer)
    with pytest.raises(ValueError, match="unknown stream option"):
        model.stream_generate(processor, frames, quary="x")  # raised by the call, not by the first iteration
    with pytest.raises(ValueError, match="min_pixels=9000 is above max_pixels=4000"):
        model.start_stream(processor, min_pixels=9000, max_pixels=4000)
    model.train()
    try:
        with pytest.raises(ValueError, match=r"training mode.*model.eval\(\)"):
            model.start_stream(processor)
    finally:
        model.eval()
