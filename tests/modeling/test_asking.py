"""Questions with the transformers API: LiveCC's reader reads files, within the token budget, and resizes once."""

import functools
import http.server
import struct
import threading

import numpy as np
import pytest
import torch
from media import write_video
from PIL import Image
from transformers import pipeline
from transformers.video_processing_utils import BaseVideoProcessor

from livecc_hf import load_model_and_processor
from livecc_hf.assets import bundled_model_path
from livecc_hf.modeling import StreamingProcessor
from livecc_hf.modeling.grammar import frame_pixel_budget
from livecc_hf.modeling.video_loading import LoadOptions, load_pictures, load_video
from livecc_hf.video import loading
from livecc_hf.video.reader import VideoReadError, iter_frames, probe_video

both_loaders = pytest.mark.parametrize("load", [load_video, loading.load_video], ids=["model", "package"])
SMALL = {"shortest_edge": 28 * 28, "longest_edge": 6 * 28 * 28}


@pytest.fixture(autouse=True)
def no_other_reader(monkeypatch):
    """Fail if transformers' own reader is called, whether or not torchcodec is installed."""

    def fails(*args, **kwargs):
        raise AssertionError("transformers read the file")

    monkeypatch.setattr(BaseVideoProcessor, "fetch_videos", fails)


@pytest.fixture(scope="module")
def tiny():
    """The bundled model and its processor."""
    return load_model_and_processor(bundled_model_path(), device="cpu")[:2]


@pytest.fixture(scope="module")
def tiny_processor(tiny):
    return tiny[1]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", n_frames=45, fps=10)


def chat(*parts):
    return [
        {
            "role": "user",
            "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts],
        }
    ]


def asked(processor, messages, **processor_kwargs):
    return processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs=processor_kwargs,
    )


@pytest.mark.parametrize("as_path", [str, lambda path: path, lambda path: f"file://{path}"])
def test_a_file_is_read_at_two_frames_a_second(processor, video, as_path):
    inputs = asked(processor, chat({"type": "video", "video": as_path(video)}, "What happens?"))
    frames = torch.stack([item.frame for item in iter_frames(video)])
    assert len(frames) == 9
    patches, grid = processor.video_processor.frames_to_patches(frames)
    assert torch.equal(inputs["video_grid_thw"], grid)
    assert torch.equal(inputs["pixel_values_videos"], patches)
    assert int((inputs["mm_token_type_ids"] == 2).sum()) == grid.prod() // 4


def test_given_limits_apply_and_frames_are_resized_once(processor, video, tiny_processor):
    for each, kwargs in ((processor, {"size": SMALL}), (tiny_processor, {})):
        inputs = asked(each, chat({"type": "video", "video": str(video)}, "What?"), **kwargs)
        frames = torch.stack([item.frame for item in iter_frames(video)])
        limits = (SMALL["shortest_edge"], SMALL["longest_edge"]) if kwargs else ()
        patches, grid = each.video_processor.frames_to_patches(frames, *limits)
        assert torch.equal(inputs["video_grid_thw"], grid)
        assert torch.equal(inputs["pixel_values_videos"], patches)


def test_the_number_of_frames_can_be_set(processor, video):
    for kwargs, n_pairs in (({"num_frames": 4}, 2), ({"fps": 4}, 9), ({"max_frames": 6}, 3), ({"fps": 1}, 3)):
        inputs = asked(processor, chat({"type": "video", "video": str(video)}, "What?"), size=SMALL, **kwargs)
        assert inputs["video_grid_thw"][0, 0] == n_pairs, kwargs
    with pytest.raises(ValueError, match="fps=2 and num_frames=4 are given: expected one"):
        asked(processor, chat({"type": "video", "video": str(video)}, "What?"), num_frames=4, fps=2)


@both_loaders
def test_a_long_video_is_sampled_evenly_within_the_budget(tiny_processor, processor, tmp_path, load):
    """Over 240 s: 480 frames, spread evenly, that share the token budget."""
    path = write_video(tmp_path / "long.mp4", n_frames=320, fps=1)
    loaded = load(path, tiny_processor.video_processor)
    assert len(loaded.frames) == 480
    assert loaded.times_s[-1] == pytest.approx(320, abs=1)
    steps = np.diff(loaded.times_s)
    assert steps.max() - steps.min() < 0.01
    few = load(path, tiny_processor.video_processor, LoadOptions(max_frames=8))
    assert few.times_s == pytest.approx([40.0 * n for n in range(8)], abs=1)
    assert processor.video_processor.clip_limits(480).longest_edge == frame_pixel_budget(480) == 105 * 28 * 28


@pytest.mark.parametrize("max_frames", [20, 6])
@pytest.mark.parametrize("header_s", [0.5, 600.0])
@both_loaders
def test_a_wrong_duration_in_the_header_does_not_change_the_frames(processor, tmp_path, header_s, max_frames, load):
    options = LoadOptions(max_frames=max_frames)
    path = write_video(tmp_path / "v.mkv", n_frames=45, fps=10)
    true = load(path, processor.video_processor, options)
    assert len(true.frames) == min(max_frames, 9)
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's duration, in milliseconds
    path.write_bytes(data[:at] + struct.pack(">d", 1000 * header_s) + data[at + 8 :])
    assert probe_video(path).duration_s == pytest.approx(header_s)
    loaded = load(path, processor.video_processor, options)
    assert loaded.times_s == true.times_s
    assert torch.equal(loaded.frames, true.frames)


@both_loaders
def test_a_file_whose_header_has_no_duration(processor, tmp_path, load):
    """Browsers record such files."""
    path = write_video(tmp_path / "live.mkv", n_frames=45, fps=10, muxer="matroska", muxer_options={"live": "1"})
    assert probe_video(path).duration_s is None
    loaded = load(path, processor.video_processor)
    assert loaded.times_s == [n / 2 for n in range(9)]
    few = load(path, processor.video_processor, LoadOptions(max_frames=3))
    assert few.times_s == pytest.approx([0.0, 1.5, 3.0], abs=0.1)


@both_loaders
def test_start_and_end_select_a_part_of_a_video(processor, video, load):
    loaded = load(video, processor.video_processor, LoadOptions(start_s=1, end_s=3))
    assert loaded.times_s == [1.0, 1.5, 2.0, 2.5]


def test_16_bit_picture_files_as_a_video_and_as_an_image(processor, tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (84, 112), dtype=np.uint8)
    paths = [str(tmp_path / f"{n}.png") for n in range(4)]
    for path in paths:
        Image.fromarray(gray.astype(np.uint16) * 257).save(path)
    shown = Image.fromarray(gray).convert("RGB")
    frames = torch.from_numpy(np.asarray(shown).copy()).permute(2, 0, 1).expand(4, -1, -1, -1)
    patches, grid = processor.video_processor.frames_to_patches(frames)
    inputs = asked(processor, chat({"type": "video", "video": paths}, "What?"))
    assert torch.equal(inputs["video_grid_thw"], grid)
    assert torch.equal(inputs["pixel_values_videos"], patches)
    expected = processor.image_processor(images=[shown], return_tensors="pt")["pixel_values"]
    for image in (paths[0], Image.open(paths[0])):
        assert torch.equal(asked(processor, chat({"type": "image", "image": image}, "What?"))["pixel_values"], expected)


def test_picture_files_of_a_video_are_turned_upright_before_resizing(processor, tmp_path):
    """A phone stores a portrait picture rotated, with an EXIF tag; another program stores it upright."""
    upright = np.random.default_rng(0).integers(0, 256, (112, 84, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to display
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "0.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "1.png")
    paths = [str(tmp_path / f"{n}.png") for n in range(2)]
    expected = torch.from_numpy(upright).permute(2, 0, 1).expand(2, -1, -1, -1)
    for order in (paths, paths[::-1]):
        loaded = load_pictures(order, processor.video_processor, LoadOptions(do_resize=False))
        assert torch.equal(loaded.frames, expected)


def test_a_video_is_downloaded_from_a_url(processor, video):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(video.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        loaded = load_video(f"{url}/v.mp4", processor.video_processor)
        with pytest.raises(OSError, match="404"):
            load_video(f"{url}/none.mp4", processor.video_processor)
        server.shutdown()
    assert torch.equal(loaded.frames, load_video(video, processor.video_processor).frames)


def test_unreadable_files_and_texts_give_one_clear_error(processor, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for shown, error, message in (
        ({"type": "video", "video": str(tmp_path / "none.mp4")}, FileNotFoundError, "none.mp4"),
        ({"type": "video", "video": str(tmp_path / "text.mp4")}, VideoReadError, "text.mp4"),
        ({"type": "image", "image": str(tmp_path / "text.mp4")}, ValueError, "text.mp4 cannot be read as a picture"),
    ):
        with pytest.raises(error, match=message):
            asked(processor, chat(shown, "What?"))
    with pytest.raises(ValueError, match="half of a character"):
        asked(processor, chat("great \ud83d"))


@pytest.mark.parametrize("with_video", [True, False])
def test_a_batch_equals_single_questions(tiny, video, with_video):
    """Shorter prompts are padded on the left."""
    shown = [{"type": "video", "video": str(video)}] if with_video else []
    chats = [chat(*shown, question) for question in ("What?", "What happens here, and what is it that moves?")]
    pipe = pipeline("image-text-to-text", model=tiny[0], processor=tiny[1])

    def said(shown, **options):
        return pipe(shown, generate_kwargs={"do_sample": False, "max_new_tokens": 8}, return_full_text=False, **options)

    alone = [said(each)[0]["generated_text"] for each in chats]
    assert [each[0]["generated_text"] for each in said(chats, batch_size=2)] == alone
    assert all(alone)


LIMITS = {
    "size": {"size": {"shortest_edge": 3136, "longest_edge": 39200}},
    "pixels": {"min_pixels": 3136, "max_pixels": 39200},
    "at most": {"max_pixels": 39200},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("is_published", [True, False])
def test_limits_given_to_from_pretrained_apply_to_images_and_videos(
    published_checkpoint, tmp_path, processor, limits, is_published
):
    folder = published_checkpoint
    if not is_published:
        processor.save_pretrained(tmp_path)
        folder = tmp_path
    given = {name: dict(value) if isinstance(value, dict) else value for name, value in limits.items()}
    limited = StreamingProcessor.from_pretrained(folder, **given)
    assert given == limits  # the caller's dictionary is not modified
    for part in (limited.image_processor, limited.video_processor):
        assert part.size["longest_edge"] == 39200
        assert part.size["shortest_edge"] <= 39200
        if len(limits) == 2 or "size" in limits:
            assert part.size["shortest_edge"] == 3136
    with pytest.raises(ValueError, match="max_pixels=0: expected a number above 0"):
        StreamingProcessor.from_pretrained(folder, max_pixels=0)
