"""The published conversation format."""

import json

import pytest

from livecc_hf.data.conversations import is_narration, parse_narration


@pytest.fixture
def conversation(reference_dir):
    return json.loads((reference_dir / "train_sample.json").read_text())["conversation"]


def test_a_published_conversation(conversation):
    clip = parse_narration(conversation, "x")
    assert (clip.video, clip.start_s, clip.end_s) == ("clip.mp4", 1.4, 12.45)
    assert (clip.query, clip.title, clip.previous) == (
        "Please comment on the video in real time.", "Three balls", "and welcome back"
    )  # fmt: skip
    assert clip.words[0] == (1.7, 2.13, "well")
    assert len(clip.words) == 30
    assert is_narration(conversation)


def test_zero_is_a_time(conversation):
    conversation[0]["content"][0]["video_start"] = 0
    assert parse_narration(conversation, "x").start_s == 0.0
    del conversation[0]["content"][0]["video_start"]
    assert parse_narration(conversation, "x").start_s is None


def test_ordinary_conversations_are_told_apart():
    plain = [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}]
    assert not is_narration(plain)
    assert not is_narration([{"from": "human", "value": "hi"}])
    with pytest.raises(ValueError, match=r"line 3: .* no part with a 'video'"):
        parse_narration(plain, "line 3")


def test_malformed_parts_are_named(conversation):
    conversation[0]["content"][0]["video_end"] = "12"
    with pytest.raises(ValueError, match="video_end is '12'"):
        parse_narration(conversation, "x")
    conversation[0]["content"][0]["video_end"] = 12
    conversation[1]["content"][0]["text_stream"] = "words"
    with pytest.raises(ValueError, match="text_stream is a str"):
        parse_narration(conversation, "x")
    conversation[1]["content"] = []
    with pytest.raises(ValueError, match="no part with a 'text_stream'"):
        parse_narration(conversation, "x")
