"""Conversations about images and videos are encoded as samples."""

import pytest
import torch
from chats import OPTIONS, SMALL, chat, decoded, encoded
from media import write_audio
from PIL import Image

from livecc_hf.data.formats.chat import Conversation, parse_chat
from livecc_hf.data.samples.chat import count_chat_tokens, encode_chat
from livecc_hf.data.samples.sample import IGNORE_INDEX, EncodeOptions
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.modeling.grammar import frame_pixel_budget


def supervised(sample):
    labels = sample.model_inputs["labels"]
    return labels[labels != IGNORE_INDEX]


def test_only_answers_are_supervised(processor):
    row = {
        "conversations": [
            {"from": "human", "value": "Name a ball."},
            {"from": "gpt", "value": "Red ball."},
            {"from": "human", "value": "Another?"},
            {"from": "gpt", "value": "\nBlue one rests.\n"},
        ]
    }
    sample = encoded(parse_chat(row, "x:1"), processor)
    decode = processor.tokenizer.decode
    assert decode(supervised(sample)) == "Red ball.<|im_end|>Blue one rests.\n<|im_end|>"
    assert decode(sample.model_inputs["input_ids"]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nName a ball.<|im_end|>\n<|im_start|>assistant\nRed ball.<|im_end|>\n"
        "<|im_start|>user\nAnother?<|im_end|>\n<|im_start|>assistant\nBlue one rests.\n<|im_end|>\n"
    )
    assert sample.n_words == 5
    assert set(sample.model_inputs) == {"input_ids", "labels", "mm_token_type_ids"}


def test_a_system_message_replaces_the_default(processor):
    row = [{"role": "system", "content": "Be brief."}, *chat("Hi").messages]
    text = processor.tokenizer.decode(encoded(parse_chat(row, "x:1"), processor).model_inputs["input_ids"])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi")


def test_the_sample_is_what_processor_and_qwen_vl_utils_make(processor, media):
    from qwen_vl_utils import process_vision_info

    conversation = chat("Compare ", {"image": "a.png"}, " and ", {"image": "b.jpg"}, {"video": "v.mp4"}, "now.")
    sample = encoded(conversation, processor, root=media)
    images, _ = process_vision_info(
        [{"role": "user", "content": [{"type": "image", "image": str(media / name)} for name in ("a.png", "b.jpg")]}]
    )
    frames = decoded(media / "v.mp4")
    expected = processor(
        text=[processor.apply_chat_template(conversation.messages, tokenize=False)],
        images=images,
        videos=[frames],
        videos_kwargs={
            "do_sample_frames": False,
            "size": {"shortest_edge": 100 * 28 * 28, "longest_edge": frame_pixel_budget(len(frames))},
        },
        return_tensors="pt",
    )
    for name in ("input_ids", "mm_token_type_ids"):
        assert torch.equal(sample.model_inputs[name], expected[name][0])
    for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"):
        assert torch.equal(sample.model_inputs[name], expected[name]), name


def test_media_stay_in_the_media_root(processor, media):
    (media / "root").mkdir()
    for part in (
        {"image": str(media / "a.png")},
        {"image": f"file://{media}/a.png"},
        {"image": "../a.png"},
        {"image": {"bytes": None, "path": "../a.png"}},
        {"video": ["../a.png", "../a.png"]},
        {"video": str(media)},  # a folder of frames
        {"video": {"path": "../v.mp4"}},
        {"video": "../v.mp4", "pos": [1]},
    ):
        with pytest.raises(UnusableSample, match="leads out of .*root: set media_root") as caught:
            encode_chat(chat(part, "What?"), processor, OPTIONS, media / "root")
        assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "parts",
    [
        [{"image": "a.png"}],
        [{"image": "a.png"}, {"image": "b.jpg"}],
        [{"video": "v.mp4", "nframes": 4}],
        [{"video": "v.mp4", "nframes": 4}, {"image": "a.png"}, {"video": "v.mp4", "nframes": 2}],
    ],
    ids=["image", "images", "video", "mixed"],
)
def test_the_model_learns_from_it(processor, make_model, media, parts):
    model = make_model("mrope")
    inputs = encoded(chat(*parts, "What?"), processor, SMALL, media).model_inputs
    per_token = ("input_ids", "labels", "mm_token_type_ids")
    batch = {name: value[None] if name in per_token else value for name, value in inputs.items()}
    model.zero_grad()
    loss = model(**batch, attention_mask=torch.ones_like(batch["input_ids"])).loss
    loss.backward()
    assert torch.isfinite(loss)
    grads = [parameter.grad for parameter in model.model.visual.parameters() if parameter.grad is not None]
    assert sum(float(grad.abs().sum()) for grad in grads) > 0
    model.zero_grad()


@pytest.mark.parametrize(
    ("part", "reason", "message"),
    [
        ({"image": "none.png"}, "missing_file", "none.png does not exist"),
        ({"image": "text.png"}, "unreadable_media", "text.png cannot be read: cannot identify"),
        ({"image": b"nothing"}, "unreadable_media", "in the row cannot be read"),
        ({"image": "thin.png"}, "unreadable_media", "thin.png cannot be read.*200"),
        ({"image": 3}, "malformed", "an image is 3"),
        ({"image": "a.png", "max_pixels": "many"}, "malformed", "max_pixels of image a.png is 'many'"),
        ({"image": "a.png", "min_pixels": 9999, "max_pixels": 999}, "malformed", "min_pixels to be at most"),
        ({"image": "hf://nowhere"}, "malformed", "expected hf://datasets"),
        ({"video": "none.mp4"}, "missing_file", "none.mp4 does not exist"),
        ({"video": "text.png"}, "unreadable_media", "text.png"),
        ({"video": "sound.m4a"}, "unreadable_media", "no video stream"),
        ({"video": "https://x/v.mp4"}, "missing_file", "download it"),
        ({"video": "v.mp4", "video_start": 9}, "no_frames", "runs from 0 to 4 s.*video_start=9"),
        ({"video": "v.mp4", "video_start": 2, "video_end": 1}, "no_frames", "video_end=1"),
        ({"video": "v.mp4", "fps": 0}, "malformed", "fps of video v.mp4 is 0: expected a number above 0"),
        ({"video": "v.mp4", "fps": 10**400}, "malformed", "fps of video v.mp4 is 100.*: expected a number above 0"),
        ({"video": ["https://x/1.png"]}, "missing_file", "image https://x/1.png is on the web: download it"),
        ({"video": "v.mp4", "video_start": -1}, "malformed", "video_start .* is -1: expected a number of seconds"),
        ({"image": "a.png", "min_pixels": 2**50, "max_pixels": 2**53}, "malformed", "image a.png would become 1 x "),
        ({"image": "a.png", "resized_height": 2**40, "resized_width": 2**40}, "malformed", "more than 1,073,741,824"),
        ({"video": "v.mp4", "min_pixels": 2**52, "max_pixels": 2**53}, "malformed", "would become 8 x "),
        ({"video": "v.mp4", "min_pixels": 9, "max_pixels": 8}, "malformed", "min_pixels=9 is above max_pixels=8"),
        ({"video": "empty"}, "no_frames", "empty has no pictures"),
        ({"video": []}, "no_frames", "no pictures"),
        ({"video": "v.mp4", "pos": [5, 3]}, "malformed", "increasing byte offsets"),
        ({"video": "v.mp4", "pos": [5, 30]}, "unreadable_media", "v.mp4 cannot be read"),
        ({"video": {"bytes": b"...", "path": None}}, "malformed", "embedded"),
        ({"video": 3}, "malformed", "a video is a int"),
        ({"video": ""}, "missing_file", "does not exist"),
        ("What is <|im_end|>?", "malformed", r"special token <\|im_end\|>"),
        ("What is <|image_pad|>?", "malformed", r"<\|image_pad\|>"),
    ],
)
def test_unusable_conversations_say_why(processor, media, part, reason, message):
    (media / "text.png").write_text("no picture")
    (media / "empty").mkdir()
    write_audio(media / "sound.m4a")
    Image.new("RGB", (401, 2)).save(media / "thin.png")
    for use in (encode_chat, count_chat_tokens):
        with pytest.raises(UnusableSample, match=message) as caught:
            use(chat("Hi ", part), processor, OPTIONS, media)
        assert caught.value.reason == reason


def test_a_conversation_over_the_token_limit_is_not_cut(processor, media):
    conversation = chat({"image": "a.png"}, "What?")
    n_tokens = count_chat_tokens(conversation, processor, OPTIONS, media)
    assert encode_chat(conversation, processor, EncodeOptions(max_tokens=n_tokens), media).n_tokens == n_tokens
    with pytest.raises(UnusableSample, match=f"has {n_tokens} tokens, more than max_tokens={n_tokens - 1}") as caught:
        encode_chat(conversation, processor, EncodeOptions(max_tokens=n_tokens - 1), media)
    assert caught.value.reason == "too_many_tokens"


def test_media_outside_of_user_messages_are_refused(processor):
    conversation = Conversation([*chat("Hi").messages, {"role": "assistant", "content": [{"type": "image"}]}])
    with pytest.raises(UnusableSample, match="assistant message has media"):
        encode_chat(conversation, processor, OPTIONS)


def test_another_chat_template_is_an_error(processor, monkeypatch):
    monkeypatch.setattr(processor, "chat_template", "{% for m in messages %}{{ m['role'] }}: {% endfor %}")
    with pytest.raises(ValueError, match="expected Qwen2-VL's form") as caught:
        encode_chat(chat("Hi"), processor, OPTIONS)
    assert not isinstance(caught.value, UnusableSample)


@pytest.mark.parametrize("messages", [("great \ud83d", "ok"), ("hi", "great \ud83d")])
def test_half_a_character_is_malformed(processor, messages):
    talk = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), messages)]
    for use in (encode_chat, count_chat_tokens):
        with pytest.raises(UnusableSample, match="half of a character") as caught:
            use(parse_chat(talk, "x"), processor, OPTIONS)
        assert caught.value.reason == "malformed"
