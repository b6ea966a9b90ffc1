"""Which frames of a conversation's videos are taken, and how they are counted."""

import base64
import io

import pytest
import torch
from chats import OPTIONS, SMALL, chat, decoded, encoded, picture
from media import number_of, write_video

from livecc_hf.data.samples.chat import count_chat_tokens, encode_chat
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.unusable import UnusableSample


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


def test_a_clip_that_begins_after_the_picture_has_no_frames(processor, tmp_path):
    write_video(tmp_path / "v.mkv", n_frames=10, fps=10, audio_s=6.0)
    with pytest.raises(UnusableSample, match=r"runs from 0 to 1 s: no frame lies between") as caught:
        encode_chat(chat({"video": "v.mkv", "video_start": 3}, "What?"), processor, OPTIONS, tmp_path)
    assert caught.value.reason == "no_frames"
