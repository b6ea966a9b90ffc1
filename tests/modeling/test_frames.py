"""Frames in every accepted form give the same result, and are resized exactly once."""

import io

import numpy as np
import pytest
from media import write_video
from PIL import Image, ImageOps

from livecc_hf.data.media.clip_frames import plan_frame_size
from livecc_hf.modeling.frame_queue import FrameQueue
from livecc_hf.modeling.frames import PreparedFrames, rgb_picture
from livecc_hf.pool import CommentaryPool
from livecc_hf.video.reader import iter_chunks

GREEDY = {"do_sample": False, "max_new_tokens": 4}
SMALL = GREEDY | {"max_pixels": 50176}


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:8, :, :96, :130].contiguous()


def last_first(frames):
    return frames.permute(0, 2, 3, 1).contiguous().numpy()


FORMS = {
    "array": lambda frames: frames.numpy(),
    "array, channels last": last_first,
    "array seen backwards": lambda frames: last_first(frames)[..., ::-1].copy()[..., ::-1],
    "pictures": lambda frames: [Image.fromarray(frame) for frame in last_first(frames)],
    "tuple of arrays": lambda frames: tuple(last_first(frames)),
    "list of tensors": list,
}


@pytest.mark.parametrize("form", FORMS)
def test_frames_in_every_form_give_the_same_commentary(form, frames, make_model, processor):
    model, shown = make_model("mrope"), FORMS[form](frames)
    expected = model.start_stream(processor, **SMALL).push(frames)
    assert len(expected) == 2
    assert model.start_stream(processor, **SMALL).push(shown) == expected
    assert list(model.stream_generate(processor, shown, **SMALL)) == expected
    assert list(model.stream_generate(processor, iter([shown[:3], shown[3:]]), **SMALL)) == expected
    assert list(model.stream_generate(processor, (frame for frame in shown), **SMALL)) == expected
    with CommentaryPool(model, processor, max_streams=1) as pool:
        stream = pool.join(**SMALL)
        stream.push(shown)
        pool.step()
        assert stream.take() == expected[0]


BAD = {
    "floats": (np.zeros((2, 3, 56, 56)), "float64: expected torch.uint8"),
    "objects": (np.full((2, 3, 56, 56), "x", object), "frames are object: expected uint8"),
    "two channels": (np.zeros((2, 56, 56, 2), np.uint8), r"\(2, 56, 56, 2\): expected \(T, 3, H, W\)"),
    "one picture": (Image.new("RGB", (56, 56)), "type Image: expected a torch.Tensor or NumPy array"),
    "no pictures": ([], r"empty \(T = 0\)"),
    "empty array": (np.zeros((0, 3, 56, 56), np.uint8), r"empty \(T = 0\)"),
    "two sizes": ([Image.new("RGB", (56, 56)), Image.new("RGB", (28, 56))], "frame 1 is .*56, 28.* but frame 0"),
    "paths": (["a.png"], "type list: expected a torch.Tensor.*item 0 is of type str"),
    "floating-point picture": ([Image.new("F", (56, 56))], "floating-point"),
    "deep picture": ([Image.new("I", (56, 56), 70000)], "from 70000 to 70000: expected 8 or 16 bits"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_frames_give_one_clear_error(name, frames, make_model, processor):
    bad, message = BAD[name]
    stream = make_model("mrope").start_stream(processor, **SMALL)
    stream.push(frames[:5])
    with pytest.raises(ValueError, match=message):
        stream.push(bad)
    assert len(stream.waiting) == 5
    if name != "one picture":  # valid as an item of an iterable
        with pytest.raises(ValueError, match=message):
            list(make_model("mrope").stream_generate(processor, iter([bad]), **SMALL))


def test_a_whole_video_of_wrong_shape_or_dtype_gives_one_clear_error(frames, make_model, processor):
    for whole in (frames[0], frames[0].numpy(), frames.float(), frames[:0]):
        with pytest.raises(ValueError, match="expected"):
            list(make_model("mrope").stream_generate(processor, whole, **SMALL))


@pytest.mark.parametrize("video", [5, None, b"match.mp4", {"video": "match.mp4"}])
def test_a_value_that_is_not_a_video_is_refused_at_the_call(video, make_model, processor):
    with pytest.raises(ValueError, match=f"the video is of type {type(video).__name__}: expected the path"):
        make_model("mrope").stream_generate(processor, video)


def test_invalid_timestamps_give_one_clear_error(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **SMALL)
    for wrong in (5, ["a", "b"], [0.0, None]):
        with pytest.raises(ValueError, match="timestamps_s=.*: expected a number of seconds for each frame"):
            stream.push(frames[:2], wrong)
    assert len(stream.waiting) == 0


LIMITS = {
    "equal limits": {"min_pixels": 78400, "max_pixels": 78400},
    "below the processor's": {"max_pixels": 60000},
    "tiny": {"min_pixels": 784, "max_pixels": 2000},
    "narrow": {"min_pixels": 90_000, "max_pixels": 92_000},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_frames_from_all_sources_have_the_same_size(limits, make_model, processor, tmp_path, monkeypatch):
    """The size that training plans, for `push`, files and the pool (which the server uses)."""
    path = write_video(tmp_path / "v.mp4", n_frames=30, fps=10, size_px=(640, 360))
    model, options = make_model("mrope"), GREEDY | limits
    seen, peek = [], FrameQueue.peek

    def spy(self, n_frames):
        shown = peek(self, n_frames)
        seen.append(tuple(shown.shape[-2:]))
        return shown

    monkeypatch.setattr(FrameQueue, "peek", spy)
    by_file = list(model.stream_generate(processor, str(path), **options))
    chunks = list(iter_chunks(path))
    stream = model.start_stream(processor, **options)
    by_push = [segment for chunk in chunks for segment in stream.push(chunk.frames, chunk.timestamps_s)]
    by_push += stream.finish()
    with CommentaryPool(model, processor, max_streams=1) as pool:
        pooled = pool.join(**options)
        for chunk in chunks:
            prepared = pooled.prepare(chunk.frames)
            pooled.push(prepared, chunk.timestamps_s)
        pooled.finish()
        while pool.step():
            pass
        by_pool = list(iter(lambda: pooled.take(), None))
    planned = plan_frame_size(360, 640, 6, processor.video_processor, limits.get("min_pixels"), limits["max_pixels"])
    assert set(seen) == {(planned.height_px, planned.width_px)}
    assert planned.height_px * planned.width_px <= limits["max_pixels"]
    assert by_file == by_push == by_pool


def test_prepared_frames_are_not_resized(frames, make_model, processor):
    model = make_model("mrope")
    stream = model.start_stream(processor, min_pixels=784, max_pixels=2000, **GREEDY)
    prepared = stream.prepare(frames[:1])
    assert isinstance(prepared, PreparedFrames)
    assert prepared.source_px == (96, 130)
    assert stream.prepare(prepared) is prepared
    repeated = stream.push(prepared.expand(6))
    stream.reset()
    assert stream.push(frames[:1].expand(6, -1, -1, -1)) == repeated
    other = model.start_stream(processor, **SMALL)
    other.push(frames[:2])
    with pytest.raises(ValueError, match="prepared by a stream with other pixel limits"):
        other.push(prepared)
    with pytest.raises(ValueError, match="multiples of 28"):
        other.push(PreparedFrames(frames[:1], (96, 130)))


def test_prepared_frames_are_a_copy_of_the_callers(frames, make_model, processor):
    """The caller may write its next frame into the same memory."""
    stream = make_model("mrope").start_stream(processor, do_resize=False, **GREEDY)
    own = frames[:6, :, :84, :112].contiguous()
    expected = stream.push(own.clone())
    stream.reset()
    prepared = stream.prepare(own)
    own.zero_()
    assert stream.push(prepared) == expected


GRAY = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "I", "I;16B"])
def test_16_bit_pictures_keep_their_brightness(kind):
    deep = GRAY * 257
    if kind == "I":
        picture = Image.fromarray(deep.astype(np.int32))
    elif kind == "I;16B":
        picture = Image.frombytes(kind, (16, 16), deep.astype(">u2").tobytes())
    else:
        file = io.BytesIO()
        Image.fromarray(deep).save(file, kind)
        picture = Image.open(file)
    rgb = np.asarray(rgb_picture(picture))
    assert np.array_equal(rgb, np.repeat(GRAY[..., None], 3, axis=2))


def test_pictures_are_upright_on_a_white_background():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(file)))
        assert np.array_equal(np.asarray(rgb_picture(Image.open(file))), upright)
        assert np.array_equal(np.asarray(rgb_picture(rgb_picture(Image.open(file)))), upright)
        assert upright.shape == ((8, 12, 3) if orientation < 5 else (12, 8, 3))
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    clear.putpixel((0, 0), (200, 0, 0, 255))
    for form in (clear, clear.quantize()):  # with an alpha channel, and with a transparent colour
        rgb = np.asarray(rgb_picture(form))
        assert rgb[0, 0].tolist() == [200, 0, 0]
        assert rgb[3, 3].tolist() == [255, 255, 255]
