"""Images of a conversation, in every form, size and place."""

import base64
import functools
import http.server
import threading

import numpy as np
import pytest
import torch
from chats import OPTIONS, chat, encoded, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from livecc_hf.data.samples.chat import count_chat_tokens, encode_chat
from livecc_hf.data.unusable import UnusableSample


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


@pytest.mark.parametrize("asked", [{"resized_height": 100, "resized_width": 60}, {"max_pixels": 6 * 28 * 28}])
def test_an_image_part_may_ask_for_a_size(processor, media, asked):
    sample = encoded(chat({"image": "b.jpg", **asked}, "What?"), processor, root=media)
    assert (sample.model_inputs["mm_token_type_ids"] == 1).sum() <= 8


def test_damage_behind_the_header_is_found_when_decoding(processor, media):
    content = (media / "b.jpg").read_bytes()
    (media / "cut.jpg").write_bytes(content[: len(content) // 2])
    conversation = chat({"image": "cut.jpg"}, "What?")
    assert count_chat_tokens(conversation, processor, OPTIONS, media) > 10
    with pytest.raises(UnusableSample, match="truncated") as caught:
        encode_chat(conversation, processor, OPTIONS, media)
    assert caught.value.reason == "unreadable_media"
