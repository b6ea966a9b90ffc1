"""StreamingVLM's grammar on its backbone: prompts, streams and training samples."""

import pytest
import torch
from one_pass import assert_same, conversation, run, said_logits
from tiny_backbones import tiny_model, tiny_processor

from livecc_hf.data.samples.commentary import encode_commentary
from livecc_hf.data.samples.narration import NarratedClip, encode_clip
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.modeling import StreamingProcessor, StreamOptions
from livecc_hf.pool import CommentaryPool
from livecc_hf.training.inspection.reading import read_messages, turn_of

WORDS = [(0.2, 0.6, "red"), (0.7, 1.0, "ball"), (2.6, 3.4, "goes"), (3.5, 4.0, "left")]
VIDEO = {"type": "video"}


def said(text):
    return {"type": "text", "text": text}


@pytest.fixture(scope="module")
def speaker(processor):
    """A processor in StreamingVLM's grammar."""
    made = tiny_processor("qwen2_5_vl", processor)
    made.grammar = "streamingvlm"
    return made


@pytest.fixture(scope="module")
def model(processor):
    return tiny_model("qwen2_5_vl", processor.tokenizer)


@pytest.fixture(scope="module")
def options(speaker):
    per_token = speaker.video_processor.pixels_per_token
    limits = {"min_pixels": 4 * per_token, "max_pixels": 12 * per_token}
    greedy = {"do_sample": False, "max_new_tokens": 4, "repetition_penalty": 1.1, "stop_at_continuation": False}
    return {"query": "Comment.", "previous": " They walk on.", "output_logits": True} | limits | greedy


@pytest.fixture(scope="module")
def frames(load_frames):
    """(10, 3, 96, 130): 5 turns."""
    return load_frames("live_cc")[:10, :, :96, :130]


@pytest.mark.parametrize("previous", ["", " They walk on."])
def test_prompts_equal_those_of_its_inference_code(previous, speaker):
    """Its code applies the chat template, and drops the system message from later turns."""

    def ids(text):
        return speaker.tokenizer(text, add_special_tokens=False)["input_ids"]

    first = [
        {"role": "previous text", "content": previous},
        {"role": "user", "content": [said("Time=0.0-1.0s"), VIDEO, said("Comment.")]},
    ]
    text = speaker.apply_chat_template(first, tokenize=False, add_generation_prompt=True)
    assert speaker.turn_ids(0.0, 1.0, 1, "Comment.", is_first=True, previous=previous) == ids(text)
    later = [{"role": "user", "content": [said("Time=1.0-2.0s"), VIDEO]}]
    text = speaker.apply_chat_template(later, tokenize=False, add_generation_prompt=True)
    assert speaker.turn_ids(1.0, 2.0, 1) == ids(
        "<|im_end|>\n" + text[len("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n") :]
    )


def test_a_stream_equals_one_pass(model, speaker, frames, options):
    stream = model.start_stream(speaker, window="none", **options)
    segments = run(stream, frames, [1, 3])
    assert [(s.start_s, s.end_s) for s in segments] == [(n, n + 1) for n in range(5)]
    inputs = conversation(speaker, stream, segments, frames, options)
    text = speaker.tokenizer.decode(inputs["input_ids"][0])
    assert (
        "<|im_start|>previous text\n They walk on.<|im_end|>\n<|im_start|>user\nTime=0.0-1.0s<|vision_start|>" in text
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    for segment, expected in zip(segments, said_logits(logits, inputs["input_ids"], speaker, segments), strict=True):
        torch.testing.assert_close(segment.logits, expected, atol=1e-4, rtol=0)


def test_a_pool_and_a_sliding_window_follow_its_grammar(model, speaker, frames, options):
    alone = run(model.start_stream(speaker, vision_window_s=2.0, **options), frames, [10])
    assert len(alone) == 5
    pool = CommentaryPool(model, speaker, max_streams=2)
    pooled = [pool.join(StreamOptions(vision_window_s=2.0, **options)) for _ in range(2)]
    for stream in pooled:
        stream.push(frames)
    while pool.step():
        pass
    for stream in pooled:
        assert_same(list(iter(stream.take, None)), alone)
    pool.close()


def test_a_warm_up_runs_whole_turns(model, speaker, options):
    stream = model.start_stream(speaker, **options)
    stream.warm_up((84, 112))
    pool = CommentaryPool(model, speaker, max_streams=2)
    assert pool.warm_up(StreamOptions(**options), frame_px=(84, 112)) == 2
    pool.close()


def test_a_sample_is_the_chat_templates_conversation(speaker, frames):
    times_s = [n / 2 for n in range(len(frames))]
    sample = encode_commentary(
        speaker, frames, times_s, WORDS, "Comment.", title="Balls", previous=" They walk on.", max_pixels=12544
    )
    answers = [" red ball ...", " ...", " ...", " goes left ..."]
    messages = [{"role": "previous text", "content": " They walk on."}]
    for turn, answer in enumerate(answers):
        content = [said(f"Time={turn}.0-{turn + 1}.0s"), VIDEO, *([] if turn else [said("Comment.\nBalls")])]
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": [said(answer)]}]
    size = {"shortest_edge": 12544, "longest_edge": 12544}
    videos = list(frames[:8].split(2))
    text = speaker.apply_chat_template(messages)
    stock = speaker(text=[text], videos=videos, size=size, do_sample_frames=False, return_tensors="pt")
    assert sample.model_inputs["input_ids"].tolist() == stock["input_ids"][0].tolist()
    labels = sample.model_inputs["labels"]
    assert speaker.tokenizer.decode(labels[labels != -100]) == "".join(answer + "<|im_end|>" for answer in answers)


def test_a_narrated_clip_is_counted_and_read_back(speaker, frames):
    times_s = [n / 2 for n in range(len(frames))]
    clip = NarratedClip(frames, times_s, WORDS, query="Comment.", previous="They walk on.")
    whole = encode_clip(clip, speaker, EncodeOptions(max_pixels=12544))
    messages = read_messages(whole, speaker)
    assert [message.role for message in messages[:4]] == ["system", "previous text", "user", "assistant"]
    turns = [turn for at in range(len(messages)) if (turn := turn_of(messages, at, speaker)) is not None]
    assert [(turn.start_s, turn.end_s) for turn in turns] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    cut = encode_clip(clip, speaker, EncodeOptions(max_pixels=12544, max_tokens=whole.n_tokens - 1))
    assert (cut.n_words, cut.n_tokens < whole.n_tokens) == (2, True)


def test_a_processor_keeps_its_grammar(speaker, tmp_path):
    speaker.save_pretrained(tmp_path)
    assert StreamingProcessor.from_pretrained(tmp_path).grammar == "streamingvlm"
    with pytest.raises(ValueError, match="grammar='other' is unknown: expected one of livecc, streamingvlm"):
        StreamingProcessor.from_pretrained(tmp_path, grammar="other")
