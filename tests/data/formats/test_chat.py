"""Conversations are parsed from the layouts of published datasets."""

import pytest

from livecc_hf.data.formats.chat import parse_chat
from livecc_hf.data.unusable import UnusableSample

ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}


def text(value):
    return {"type": "text", "text": value}


def image(value):
    return {"type": "image", "image": value}


def video(value):
    return {"type": "video", "video": value}


def llava(*values, **media):
    speakers = ("human", "gpt")
    return {"conversations": [{"from": speakers[i % 2], "value": value} for i, value in enumerate(values)], **media}


def first_content(row):
    return parse_chat(row, "x:1").messages[0]["content"]


def test_messages_with_and_without_types_as_published():
    row = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"video": "a.mp4", "video_start": 0, "video_end": 4.5, "fps": 1}, {"text": "What?"}],
        },
        {"role": "assistant", "content": "A cat."},
    ]
    parsed = parse_chat(row, "x:1")
    assert parsed.messages == [
        {"role": "system", "content": [text("Be brief.")]},
        {"role": "user", "content": [video("a.mp4") | {"video_start": 0, "video_end": 4.5, "fps": 1}, text("What?")]},
        ANSWER,
    ]
    assert parse_chat({"messages": row}, "x:1") == parsed
    assert parse_chat(parsed.messages, "x:1") == parsed


def test_missing_values_of_tables_are_left_out():
    part = {"type": "image", "image": "a.png", "text": None, "video": None, "max_pixels": None}
    assert first_content([{"role": "user", "content": [part]}, ANSWER]) == [image("a.png")]


def test_image_url_is_an_image():
    part = {"type": "image_url", "image_url": {"url": "https://x/a.png"}}
    assert first_content([{"role": "user", "content": [part]}, ANSWER]) == [image("https://x/a.png")]


def test_llava_placeholders_are_replaced_in_place():
    row = llava("Compare <image> and <image>\nNow.", "No.", "<image>\nAnd this?", "Yes.", image=["a", "b", "c"])
    messages = parse_chat(row, "x:1").messages
    assert messages[0]["content"] == [text("Compare "), image("a"), text(" and "), image("b"), text("Now.")]
    assert messages[2]["content"] == [image("c"), text("And this?")]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2


def test_media_without_a_placeholder_go_in_front():
    row = llava("What?", "A cat.", "<image>\nSure?", "Yes.", image=["a", "b", "c"])
    messages = parse_chat(row, "x:1").messages
    assert messages[2]["content"][0] == image("a")
    assert messages[0]["content"] == [image("b"), image("c"), text("What?")]


def test_llava_video_writes_image_for_a_video():
    row = llava("<image>\nWhat happens?", "A cat.", video="v/a.mp4", image=None)
    assert first_content(row) == [video("v/a.mp4"), text("What happens?")]


def test_images_and_videos_in_one_row_have_their_own_placeholders():
    row = llava("<video> like <image>?", "No.", video="v", images=["i"])
    assert first_content(row) == [video("v"), text(" like "), image("i"), text("?")]


def test_embedded_images_and_text_only():
    embedded = {"bytes": b"...", "path": None}
    assert first_content(llava("<image>\nWhat?", "A cat.", image=embedded)) == [image(embedded), text("What?")]
    assert first_content(llava("What?", "A cat.", image="", images=[])) == [text("What?")]


def test_a_placeholder_in_an_answer_is_text():
    messages = parse_chat(llava("Write HTML.", "Use <image>.", image=None), "x:1").messages
    assert messages[1]["content"] == [text("Use <image>.")]


def test_line_breaks_before_an_answer_go_and_spaces_stay():
    assert parse_chat(llava("Hi", " \n\n A cat.\n"), "x:1").messages[1]["content"] == [text(" A cat.\n")]
    assert parse_chat(llava("Hi", " ..."), "x:1").messages[1]["content"] == [text(" ...")]


def test_parsing_leaves_the_row_as_it_was():
    row = llava("<image>\nWhat?", "\nA cat.", image=["a"])
    copy = llava("<image>\nWhat?", "\nA cat.", image=["a"])
    parse_chat(row, "x:1")
    assert row == copy


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], r"x:1: the row is \[\]: expected a list of messages"),
        (None, "the row is None"),
        ({"id": 3}, r"a mapping with \['id'\]"),
        ([{"role": "robot", "content": "Hi"}], "x:1: message 0: its role is 'robot': expected one of system, human"),
        (["Hi"], "message 0: it is 'Hi'"),
        ([{"role": "user", "content": "Hi"}], "no answer"),
        ([{"role": "user", "content": [{"image": "a", "video": "b"}]}, ANSWER], r"of type None.*image.*video"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "a"}]}, ANSWER], "'audio'"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}, ANSWER], "text is 3"),
        ([{"role": "user", "content": [3]}, ANSWER], "has 3"),
        ([{"role": "user", "content": " "}, ANSWER], "user message is empty"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": []}], "assistant message is empty"),
        (
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [image("a")]}],
            "assistant message has media",
        ),
        ([{"role": "user", "content": "Hi"}, {"role": "system", "content": "Hi"}, ANSWER], "only as the first message"),
        ([{"role": "user", "content": [{"text_stream": []}]}, ANSWER], "narrated clip"),
        (llava("<image> <image>", "A cat.", image="a"), "turn 0: 2 placeholders.*1 media"),
        (llava("<video>", "A cat."), "1 placeholders.*0 media"),
        (llava("<image>", "A cat.", "<image>", "No.", image=["a"]), "turn 2: 2 placeholders"),
        (llava("Hi"), "no answer"),
        (llava("Hi", ""), "assistant message is empty"),
        ({"conversations": [{"from": "human", "value": None}]}, "turn 0: it is"),
        ({"conversations": "Hi"}, "conversations is a str"),
    ],
)
def test_rows_that_are_not_conversations_are_malformed(row, message):
    with pytest.raises(UnusableSample, match=message) as caught:
        parse_chat(row, "x:1")
    assert caught.value.reason == "malformed"
    assert str(caught.value).startswith("x:1")
