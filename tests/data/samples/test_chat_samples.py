"""Conversations about images and videos are encoded as samples."""

import base64
import functools
import http.server
import io
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media import number_of, write_audio, write_video
from PIL import Image

from livecc_hf.data.formats.chat import Conversation, parse_chat
from livecc_hf.data.samples.chat import count_chat_tokens, encode_chat
from livecc_hf.data.samples.sample import IGNORE_INDEX, EncodeOptions
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.modeling.grammar import frame_pixel_budget

OPTIONS = EncodeOptions()
SMALL = EncodeOptions(min_pixels=28 * 28, max_pixels=4 * 28 * 28)


def picture(width_px=120, height_px=80, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chat(*parts, answer="A red ball rests."):
    parts = [{"text": part} if isinstance(part, str) else part for part in parts]
    return parse_chat([{"role": "user", "content": parts}, {"role": "assistant", "content": answer}], "x:1")


@pytest.fixture
def media(tmp_path):
    picture(120, 80, 0).save(tmp_path / "a.png")
    picture(90, 200, 1).save(tmp_path / "b.jpg")
    write_video(tmp_path / "v.mp4", n_frames=40, fps=10, size_px=(96, 64))
    return tmp_path


def supervised(sample):
    labels = sample.model_inputs["labels"]
    return labels[labels != IGNORE_INDEX]


def encoded(conversation, processor, options=OPTIONS, root=None):
    """Encode a conversation, and check what holds for every sample."""
    sample = encode_chat(conversation, processor, options, root)
    inputs = sample.model_inputs
    assert count_chat_tokens(conversation, processor, options, root) == sample.n_tokens
    shapes = {len(inputs[name]) for name in ("input_ids", "labels", "mm_token_type_ids")}
    assert shapes == {sample.n_tokens}
    at = inputs["labels"] != IGNORE_INDEX
    assert torch.equal(inputs["labels"][at], inputs["input_ids"][at])
    assert not inputs["mm_token_type_ids"][at].any()
    for kind, pixels, grid in ((1, "pixel_values", "image_grid_thw"), (2, "pixel_values_videos", "video_grid_thw")):
        n_tokens = int((inputs["mm_token_type_ids"] == kind).sum())
        assert (grid in inputs) == (pixels in inputs) == (n_tokens > 0)
        if n_tokens:
            assert inputs[pixels].dtype == torch.float32
            assert inputs[pixels].shape == (n_tokens * 4, 1176)
            assert inputs[grid].prod(1).sum() == n_tokens * 4
    return sample


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


def decoded(path, n_frames=8):
    """Return evenly spaced frames from 0 to 39 of a file with 10 frames a second."""
    from livecc_hf.video.reader import iter_frames

    return torch.stack([item.frame for item in iter_frames(path, fps=(n_frames - 1) / 3.9)])


def test_frames_span_the_whole_video(media):
    numbers = [number_of(frame) for frame in decoded(media / "v.mp4")]
    assert numbers[0] == 0
    assert numbers[-1] >= 38


@pytest.mark.parametrize(
    ("keys", "options", "n_frames"),
    [
        ({}, OPTIONS, 8),
        ({"fps": 1}, OPTIONS, 4),
        ({"fps": 0.25}, OPTIONS, 4),
        ({"fps": 0.25, "min_frames": 2}, OPTIONS, 2),
        ({"nframes": 6}, OPTIONS, 6),
        ({"nframes": 99}, OPTIONS, 40),
        ({"fps": 100}, OPTIONS, 40),
        ({"max_frames": 6}, OPTIONS, 6),
        ({}, EncodeOptions(max_frames=4), 4),
        ({"max_frames": 6}, EncodeOptions(max_frames=4), 4),
        ({"video_start": 1.0, "video_end": 3.0}, OPTIONS, 4),
        ({"video_start": 0, "video_end": 100}, OPTIONS, 8),
        ({"video_start": 3.9}, OPTIONS, 2),
    ],
)
def test_the_number_of_frames(processor, media, keys, options, n_frames):
    conversation = chat({"video": "v.mp4", **keys}, "What?")
    grid = encoded(conversation, processor, options, media).model_inputs["video_grid_thw"]
    assert grid.tolist() == [[n_frames // 2, 18, 26]]


@pytest.mark.parametrize("name", ["v.mkv", "v.ts", "v.avi"])
@pytest.mark.parametrize("keys", [{}, {"video_start": 0.5, "video_end": 2.25}])
def test_counts_hold_for_other_containers(processor, tmp_path, name, keys):
    write_video(tmp_path / name, n_frames=33, fps=12, codec="mpeg4", clock=12)
    conversation = chat({"video": name, **keys}, "What?")
    counted = count_chat_tokens(conversation, processor, OPTIONS, tmp_path)
    assert counted >= encode_chat(conversation, processor, OPTIONS, tmp_path).n_tokens > 100


def test_counts_are_never_too_low_where_the_picture_ends_before_the_sound(processor, tmp_path):
    write_video(tmp_path / "v.mkv", n_frames=10, fps=10, audio_s=6.0)
    conversation = chat({"video": "v.mkv"}, "What?")
    sample = encode_chat(conversation, processor, OPTIONS, tmp_path)
    assert count_chat_tokens(conversation, processor, OPTIONS, tmp_path) >= sample.n_tokens
    grid = sample.model_inputs["video_grid_thw"]
    assert (sample.model_inputs["mm_token_type_ids"] == 2).sum() * 4 == grid.prod()


def test_a_rotated_video_is_counted_and_upright(processor, tmp_path):
    write_video(tmp_path / "v.mp4", n_frames=10, size_px=(320, 96), rotation_deg=90)
    grid = encoded(chat({"video": "v.mp4"}, "What?"), processor, root=tmp_path).model_inputs["video_grid_thw"]
    assert grid[0, 1] > grid[0, 2]


def test_pixel_limits_of_options_win_over_the_part(processor, media):
    part = {"video": "v.mp4", "max_pixels": 120 * 28 * 28}
    rows = {}
    for name, options in (("part", OPTIONS), ("options", SMALL)):
        grid = encoded(chat(part, "What?"), processor, options, media).model_inputs["video_grid_thw"]
        rows[name] = int(grid[0, 1:].prod()) // 4
    assert 100 <= rows["part"] <= 120
    assert rows["options"] <= 4


def test_videos_as_pictures_are_all_the_same_video(processor, tmp_path):
    frames = [picture(96, 64, seed) for seed in range(5)]
    (tmp_path / "frames").mkdir()
    joined, ends = b"", []
    for i, frame in enumerate(frames):
        frame.save(tmp_path / f"frames/{i:03}.png")
        file = io.BytesIO()
        frame.save(file, "png")
        joined += file.getvalue()
        ends.append(len(joined))
    (tmp_path / "frames.bin").write_bytes(joined)
    paths = [f"frames/{i:03}.png" for i in range(5)]
    encoded_frames = [base64.b64encode((tmp_path / path).read_bytes()).decode() for path in paths]
    urls = [f"data:image/png;base64,{frame}" for frame in encoded_frames]
    videos = [{"video": "frames"}, {"video": "frames.bin", "pos": ends}]
    videos += [{"video": pictures} for pictures in (paths, frames, urls)]
    samples = [encoded(chat(video, "What?"), processor, root=tmp_path).model_inputs for video in videos]
    assert samples[0]["video_grid_thw"][0, 0] == 3  # five frames, the last one twice
    for sample in samples[1:]:
        assert torch.equal(sample["pixel_values_videos"], samples[0]["pixel_values_videos"])
    few = encoded(chat(videos[0], "What?"), processor, EncodeOptions(max_frames=2), tmp_path).model_inputs
    assert few["video_grid_thw"][0, 0] == 1
    for least in ({"nframes": 0.5}, {"max_frames": 0.5}):
        one = encoded(chat(videos[0] | least, "What?"), processor, root=tmp_path).model_inputs
        assert one["video_grid_thw"][0, 0] == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width_px=st.integers(1, 900), height_px=st.integers(1, 900), most=st.integers(4, 40))
def test_images_are_counted_exactly(processor, tiny_processor, width_px, height_px, most):
    image = {"image": Image.new("RGB", (width_px, height_px)), "max_pixels": most * 28 * 28}
    for each in (processor, tiny_processor):
        part = image if each is processor else {"image": image["image"]}
        try:
            encoded(chat(part, "What?"), each)
        except UnusableSample as error:
            assert error.reason == "unreadable_media"
            assert max(width_px, height_px) > 3 * min(width_px, height_px)


@pytest.mark.parametrize("size_px", [(140, 84), (300, 20), (33, 500)])
def test_images_have_the_same_size_as_at_inference(tiny_processor, size_px):
    """With livecc-tiny's limits, many images would become larger if they were resized twice."""
    image = picture(*size_px)
    asked = tiny_processor.image_processor(images=[image], return_tensors="pt")
    sample = encoded(chat({"image": image}, "What?"), tiny_processor)
    assert torch.equal(sample.model_inputs["image_grid_thw"], asked["image_grid_thw"])
    # qwen-vl-utils, with which LiveCC was trained, resizes with another implementation of the same filter.
    assert (sample.model_inputs["pixel_values"] - asked["pixel_values"]).abs().mean() < 0.02


def shown_brightness(sample, processor, kind):
    values = sample.model_inputs["pixel_values_videos" if kind == "video" else "pixel_values"]
    config = processor.video_processor if kind == "video" else processor.image_processor
    mean, std = (torch.tensor(value)[None, :, None] for value in (config.image_mean, config.image_std))
    return float((values.view(len(values), 3, -1) * std + mean).mean()) * 255


@pytest.mark.parametrize("kind", ["image", "video"])
def test_pictures_of_16_bits_keep_their_brightness(processor, tmp_path, kind):
    gray = np.asarray(picture().convert("L")).astype(np.uint16)
    (tmp_path / "f").mkdir()
    for number in range(4):
        Image.fromarray(gray * 257).save(tmp_path / "f" / f"{number}.png")
    part = {"image": "f/0.png"} if kind == "image" else {"video": "f"}
    sample = encoded(chat(part, "What?"), processor, root=tmp_path)
    assert shown_brightness(sample, processor, kind) == pytest.approx(gray.mean(), abs=1)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_images_are_upright(processor, tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 8  # turn by 90 degrees counter-clockwise
    picture(120, 60).save(tmp_path / f"a.{suffix}", exif=exif)
    sample = encoded(chat({"image": f"a.{suffix}"}, "What?"), processor, root=tmp_path)
    upright = processor.image_processor(images=[picture(120, 60).rotate(90, expand=True)], return_tensors="pt")
    assert torch.equal(sample.model_inputs["image_grid_thw"], upright["image_grid_thw"])
    assert sample.model_inputs["image_grid_thw"][0, 1] > sample.model_inputs["image_grid_thw"][0, 2]


def test_images_in_every_form_are_the_same_image(processor, media):
    content = (media / "a.png").read_bytes()
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    forms = ["a.png", f"file://{media / 'a.png'}", picture(), content, {"bytes": content, "path": None}, url]
    forms.append({"bytes": None, "path": "a.png"})
    samples = [encoded(chat({"image": form}, "What?"), processor, root=media).model_inputs for form in forms]
    for sample in samples[1:]:
        assert torch.equal(sample["pixel_values"], samples[0]["pixel_values"])


def test_images_and_listed_frames_on_the_web(processor, media):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(media))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        named = (None, ["127.0.0.1"])
        sample = encode_chat(chat({"image": f"{url}/a.png"}, "What?"), processor, OPTIONS, *named)
        frames = encode_chat(chat({"video": [f"{url}/a.png", "a.png"]}, "What?"), processor, OPTIONS, media, named[1])
        refused = []
        for name, allowed in (
            ("none.png", named),
            ("a.png", (None, True)),
            ("a.png", ()),
            ("a.png", (None, ["x.org"])),
        ):
            for read in (encode_chat, count_chat_tokens):
                with pytest.raises(UnusableSample) as caught:
                    read(chat({"image": f"{url}/{name}"}, "What?"), processor, OPTIONS, *allowed)
                refused.append((caught.value.reason, str(caught.value)))
        server.shutdown()
    local = encoded(chat({"image": "a.png"}, "What?"), processor, root=media)
    assert torch.equal(sample.model_inputs["pixel_values"], local.model_inputs["pixel_values"])
    listed = encoded(chat({"video": ["a.png", "a.png"]}, "What?"), processor, root=media)
    assert torch.equal(frames.model_inputs["pixel_values_videos"], listed.model_inputs["pixel_values_videos"])
    assert {reason for reason, _ in refused} == {"missing_file"}
    for (_, told), expected in zip(
        refused[::2], ("404", "not a public address", "allow_urls: true", "not among"), strict=True
    ):
        assert expected in told


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


@pytest.mark.parametrize("asked", [{"resized_height": 100, "resized_width": 60}, {"max_pixels": 6 * 28 * 28}])
def test_an_image_part_may_ask_for_a_size(processor, media, asked):
    sample = encoded(chat({"image": "b.jpg", **asked}, "What?"), processor, root=media)
    assert (sample.model_inputs["mm_token_type_ids"] == 1).sum() <= 8


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


def test_damage_behind_the_header_is_found_when_decoding(processor, media):
    content = (media / "b.jpg").read_bytes()
    (media / "cut.jpg").write_bytes(content[: len(content) // 2])
    conversation = chat({"image": "cut.jpg"}, "What?")
    assert count_chat_tokens(conversation, processor, OPTIONS, media) > 10
    with pytest.raises(UnusableSample, match="truncated") as caught:
        encode_chat(conversation, processor, OPTIONS, media)
    assert caught.value.reason == "unreadable_media"


def test_a_clip_that_begins_after_the_picture_has_no_frames(processor, tmp_path):
    write_video(tmp_path / "v.mkv", n_frames=10, fps=10, audio_s=6.0)
    with pytest.raises(UnusableSample, match=r"runs from 0 to 1 s: no frame lies between") as caught:
        encode_chat(chat({"video": "v.mkv", "video_start": 3}, "What?"), processor, OPTIONS, tmp_path)
    assert caught.value.reason == "no_frames"


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
