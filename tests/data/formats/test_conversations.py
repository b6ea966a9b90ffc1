"""Rows in the format of LiveCC's published datasets, nested, flat or as JSON."""

import json

import pytest

from livecc_hf.data.formats.conversations import is_narration, parse_narration
from livecc_hf.data.formats.rows import parse_row
from livecc_hf.data.unusable import UnusableSample


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


NAN = float("nan")


def test_what_a_clip_cannot_use_is_refused_and_not_left_out(conversation):
    system = {"role": "system", "content": "You are a helpful assistant."}
    clip = parse_narration(conversation, "x")
    assert parse_narration([system, *conversation], "x") == clip
    assert (
        parse_narration([system | {"content": [{"type": "text", "text": system["content"]}]}, *conversation], "x")
        == clip
    )
    with pytest.raises(ValueError, match="x: the narrated clip has a system message, 'You are a poet.': expected none"):
        parse_narration([system | {"content": "You are a poet."}, *conversation], "x")
    with pytest.raises(ValueError, match="x: the narrated clip has 2 parts with a 'text'"):
        parse_narration([*conversation, {"role": "user", "content": "And who won?"}], "x")
    second = [message | {"content": message["content"][:1]} for message in conversation]
    with pytest.raises(ValueError, match="x: the narrated clip has 2 parts with a 'video'"):
        parse_narration([*conversation, *second], "x")
    with pytest.raises(ValueError, match="x: the narrated clip has 2 parts with a 'text_stream'"):
        parse_narration([*conversation, *second[1:]], "x")


def test_a_query_may_be_plain_text_as_in_a_chat(conversation):
    video, text = conversation[0]["content"]
    conversation[0]["content"] = [video, text["text"]]
    assert parse_narration(conversation, "x").query == "Please comment on the video in real time."


def row_of(conversation, **keys):
    """The same clip as a conversation, a flat row, a row with a conversation, and a row with its JSON."""
    place, part = conversation[0]["content"]
    words = conversation[1]["content"][0]["text_stream"]
    nested = [{"role": "user", "content": [place, part | keys]}, conversation[1]]
    flat = place | part | {"words": words} | keys
    flat.pop("type", None)
    return [nested, flat, {"conversation": nested}, {"messages": json.dumps(nested)}]


@pytest.mark.parametrize("form", range(4))
def test_nan_counts_as_missing(conversation, form):
    """pandas writes NaN for an empty cell."""
    for missing in (NAN, None):
        row = row_of(conversation, text=missing, title=missing, previous=missing, category=missing)[form]
        clip = parse_row(row, "x")
        assert (clip.query, clip.title, clip.previous, clip.category) == (None, None, None, None)
        assert (clip.start_s, clip.end_s) == (1.4, 12.45)
    del conversation[0]["content"][0]["video_start"]
    conversation[0]["content"][0] |= {"video_end": NAN}
    clip = parse_row(row_of(conversation)[form], "x")
    assert (clip.start_s, clip.end_s) == (None, None)


@pytest.mark.parametrize("form", range(4))
@pytest.mark.parametrize("name", ["text", "title", "previous", "category"])
@pytest.mark.parametrize("wrong", [["a"], {"a": 1}, 5, 0, False, 2.5])
def test_a_text_that_is_not_a_string_is_malformed(conversation, form, name, wrong):
    with pytest.raises(UnusableSample, match=f"{name} is .*: expected a text") as caught:
        parse_row(row_of(conversation, **{name: wrong})[form], "x")
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("wrong", [5, ["a.mp4"], {"bytes": "x"}, ""])
def test_a_video_that_is_not_a_path_is_malformed(conversation, wrong):
    conversation[0]["content"][0]["video"] = wrong
    for row in row_of(conversation):
        with pytest.raises(UnusableSample, match="video is .*: expected the path of a video file"):
            parse_row(row, "x")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversation": "{oops"}, "x: the conversation is a text that is not JSON"),
        ({"messages": "[" * 100_000}, "x: the conversation is a text that is not JSON: maximum recursion depth"),
        ({"video": "a.mp4", "words": [], "video_end": 10**400}, "x: int too large"),
        (
            {"video": "a.mp4", "words": [], "video_end": float("inf")},
            "x: video_end is inf: expected a number of seconds",
        ),
    ],
)
def test_malformed_rows_are_named(row, message):
    with pytest.raises(UnusableSample, match=message) as caught:
        parse_row(row, "x")
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("keys", [("start", "end", "word"), ("start_s", "end_s", "text")])
def test_words_may_be_mappings(keys):
    words = [dict(zip(keys, word)) for word in ([1.0, 1.5, "red"], [1.5, 2.0, " ball "])]
    clip = parse_row({"video": "a.mp4", "words": words}, "x")
    assert clip.words == [(1.0, 1.5, "red"), (1.5, 2.0, "ball")]


def test_nan_in_a_chat_counts_as_missing():
    parts = [{"type": "image", "image": "a.png", "text": NAN, "max_pixels": NAN}, {"text": "What?", "image": NAN}]
    talk = parse_row({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A."}]}, "x")
    assert talk.messages[0]["content"] == [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes."}]
    assert len(parse_row({"conversations": turns, "image": NAN, "video": NAN}, "x").messages[0]["content"]) == 1
    turns[1]["value"] = NAN
    with pytest.raises(UnusableSample, match="turn 1"):
        parse_row({"conversations": turns}, "x")
