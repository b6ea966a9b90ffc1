"""Texts from users go through one check, and generated text holds only whole characters."""

import pytest
import torch

from livecc_hf.data.samples.commentary import encode_commentary

HALF = "great \ud83d"
GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "max_pixels": 50176}


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:10, :, :96, :130]


def saying(model, token_ids):
    """A hook that makes the model generate these tokens, one per step."""
    left = iter(token_ids)

    def say(module, args, scores):
        scores = torch.full_like(scores, -50.0)
        scores[..., next(left)] = 50.0
        return scores

    return model.lm_head.register_forward_hook(say)


@pytest.mark.parametrize("wrong", [HALF, "\udcff", 5, b"what", ["what"], None])
def test_invalid_queries_and_questions_are_refused_and_change_nothing(wrong, frames, make_model, processor):
    model = make_model("mrope")
    expected = model.start_stream(processor, **GREEDY).push(frames)
    stream = model.start_stream(processor, **GREEDY)
    segments = stream.push(frames[:6])
    message = "half of a character" if isinstance(wrong, str) else "expected a string"
    for use in (stream.ask, stream.answer):
        with pytest.raises(ValueError, match=message) as caught:
            use(wrong)
        str(caught.value).encode()  # can be printed
    assert segments + stream.push(frames[6:]) == expected
    for name in ("query", "title", "previous") if wrong is not None else ():
        with pytest.raises(ValueError, match=message):
            model.start_stream(processor, **{name: wrong})


def test_a_sample_with_half_a_character_is_refused(frames, processor):
    times_s = [n / 2 for n in range(10)]
    for keys in ({"query": HALF}, {"title": HALF}, {"previous": HALF}):
        with pytest.raises(ValueError, match=r"half of a character \('\\ud83d'"):
            encode_commentary(processor, frames, times_s, [(0, 1, "a")], **keys)
    with pytest.raises(ValueError, match="half of a character"):
        encode_commentary(processor, frames, times_s, [(0, 1, HALF)])


@pytest.mark.parametrize("wrong", [float("nan"), 5, b"what", ["what"]])
def test_a_sample_with_texts_that_are_not_strings_is_refused(wrong, frames, processor):
    times_s = [n / 2 for n in range(10)]
    for name in ("query", "title", "previous"):
        with pytest.raises(ValueError, match=f"{name}=.*: expected a string"):
            encode_commentary(processor, frames, times_s, [(0, 1, "a")], **{name: wrong})
    with pytest.raises(ValueError, match=r"word 1 is .*: expected \[start_s, end_s, word\]"):
        encode_commentary(processor, frames, times_s, [(0, 1, "a"), (1, 2, wrong)])


@pytest.mark.parametrize(
    ("n_tokens", "text"), [(3, "goal"), (4, "goal"), (5, "goal 日"), (6, "goal 日"), (7, "goal 日"), (8, "goal 日本")]
)
def test_a_character_cut_by_the_token_limit_is_left_out(n_tokens, text, frames, make_model, processor):
    model = make_model("mrope")
    ids = processor.tokenizer(" goal 日本", add_special_tokens=False)["input_ids"]
    assert len(ids) == 8
    stream = model.start_stream(processor, max_new_tokens=n_tokens, **GREEDY)
    hook = saying(model, ids)
    try:
        segment = stream.push(frames[:6])[0]
    finally:
        hook.remove()
    assert (segment.text, segment.was_cut) == (text, True)
    hook = saying(model, ids)
    try:
        assert stream.answer("Who?", max_new_tokens=n_tokens) == text
    finally:
        hook.remove()
    assert processor.decode_turn([*ids[:n_tokens], processor.continuation_id, processor.end_id]) == text
    assert processor.decode_turn([processor.continuation_id, processor.end_id]) == ""


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (" A red ball ...", "A red ball"),
        ("A red ball ... ...", "A red ball"),
        (" ...", ""),
        ("...", ""),
        ("Wait ... what?", "Wait ... what?"),
        ("It goes on...", "It goes on..."),
        (" Yes. ...\n", "Yes."),
    ],
)
def test_an_answer_never_ends_in_the_continuation_marker(said, text, frames, make_model, processor):
    model = make_model("mrope")
    stream = model.start_stream(processor, **GREEDY)
    stream.push(frames[:6])
    hook = saying(model, [*processor.tokenizer(said, add_special_tokens=False)["input_ids"], processor.end_id])
    try:
        assert stream.answer("What is it?") == text
    finally:
        hook.remove()
