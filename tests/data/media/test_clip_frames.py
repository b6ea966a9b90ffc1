"""Clips are planned from a file's header, read by seeking, and resized while decoding."""

import math
import os
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media import claim_length, number_of, write_audio, write_video

from livecc_hf.data.media import clip_frames
from livecc_hf.data.media.clip_frames import plan_clip, plan_frame_size, read_clip
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.modeling.grammar import frame_pixel_budget
from livecc_hf.video.reader import iter_frames, probe_video

LIMITS = {"min_pixels": 28 * 28, "max_pixels": 56 * 84}


@pytest.fixture(scope="module")
def video_processor(processor):
    return processor.video_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of 20 s in several containers and with B-frames, and one of 15 s with noise."""
    path = tmp_path_factory.mktemp("videos")
    for suffix in (".mp4", ".mkv", ".ts", ".webm"):
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        write_video(path / f"a{suffix}", n_frames=200, codec=codec, audio_s=1 if suffix == ".mp4" else None)
    write_video(path / "b.mp4", n_frames=200, codec_options={"bf": "2", "preset": "medium"})
    late = [3 + Fraction(k, 10) for k in range(100)]
    write_video(path / "late.mkv", times_s=late)  # a player shows its first frame at 0:00
    write_video(path / "broadcast.ts", times_s=[9_997 + time for time in late])
    write_video(path / "sound_first.mp4", times_s=late, audio_s=13)
    noise = np.random.default_rng(0).integers(0, 255, (8, 150, 250, 3), dtype=np.uint8)
    write_video(path / "noise.mp4", n_frames=150, size_px=(250, 150), paint=lambda k: noise[k % 8])
    return path


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.ts", "a.webm", "b.mp4", "late.mkv", "broadcast.ts", "sound_first.mp4"]
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.none() | st.integers(0, 60).map(lambda k: k / 10),
    end=st.none() | st.integers(61, 300).map(lambda k: k / 10),
)
def test_a_plan_predicts_what_reading_returns(folder, name, video_processor, start, end):
    plan = plan_clip(folder / name, start, end, video_processor, **LIMITS)
    clip = read_clip(folder / name, plan, video_processor)
    assert len(clip.frames) == plan.n_sampled
    assert plan.n_frames == plan.n_uncut_frames == plan.n_sampled + plan.n_sampled % 2
    assert clip.frames.shape[1:] == (3, plan.height_px, plan.width_px) == (3, 56, 84)
    assert plan.n_pair_tokens == 6
    origin_s = probe_video(folder / name).clock_start_s
    end = None if end is None else end + 1e-3
    shown = [frame.time_s for frame in iter_frames(folder / name, start, end, origin_s=origin_s)]
    assert shown[0] == pytest.approx(plan.first_s)
    assert shown[-1] == pytest.approx(plan.last_s)
    assert all(t <= end_s <= t + plan.hold_s for t, end_s in zip(shown, clip.end_times_s, strict=True))


@pytest.mark.parametrize("max_pixels", [None, 50_000])
def test_resizing_while_decoding_equals_resizing_at_the_end(folder, video_processor, max_pixels):
    path = folder / "noise.mp4"
    plan = plan_clip(path, 2, 13, video_processor, max_pixels=max_pixels)
    clip = read_clip(path, plan, video_processor)
    raw = torch.stack([frame.frame for frame in iter_frames(path, 2, 13.001)])
    budget = max_pixels or frame_pixel_budget(plan.n_frames)
    whole = video_processor.frames_to_patches(raw, max_pixels=budget)
    ours = video_processor.frames_to_patches(clip.frames, do_resize=False)
    assert torch.equal(ours[0], whole[0])
    assert torch.equal(ours[1], whole[1])
    assert plan.n_pair_tokens * ours[1][0, 0] == len(ours[0]) // 4


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(20, 1200), width=st.integers(20, 1200), n_frames=st.integers(1, 240).map(lambda n: 2 * n))
def test_the_planned_size_is_that_of_the_processor(processor, height, width, n_frames):
    size = plan_frame_size(height, width, n_frames, processor.video_processor)
    frames = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    limit = processor.video_processor.clip_limits(n_frames).longest_edge
    _patches, grid = processor.video_processor.frames_to_patches(frames, max_pixels=limit)
    assert [1, size.height_px // 14, size.width_px // 14] == grid[0].tolist()
    assert size.n_pair_tokens == grid.prod().item() // 4
    assert size.max_pixels == limit


def test_an_end_on_a_sample_time_is_included(folder, video_processor):
    """LiveCC's training keeps the frame shown at `video_end`: the last word ends there."""
    for end_s, n_frames in ((8.0, 13), (8.1, 13), (7.9, 12), (7.6 + 0.4, 13)):
        plan = plan_clip(folder / "a.mp4", 2.0, end_s, video_processor, **LIMITS)
        clip = read_clip(folder / "a.mp4", plan, video_processor)
        assert (plan.n_sampled, len(clip.frames)) == (n_frames, n_frames)


def test_a_start_of_0_is_a_time_like_any_other(folder, video_processor):
    """In a video that begins at 3 s, 0 and None both mean the first frame."""
    plans = [plan_clip(folder / "sound_first.mp4", start, 8, video_processor) for start in (0, None)]
    assert [(plan.first_s, plan.n_sampled) for plan in plans] == [(3, 11), (3, 11)]


@pytest.mark.parametrize("name", ["late.mkv", "broadcast.ts"])
@pytest.mark.parametrize("start_s", [None, 0, 4.2])
def test_a_clip_counts_from_what_a_player_shows_as_0(folder, name, start_s, video_processor):
    plan = plan_clip(folder / name, start_s, 8, video_processor, min_pixels=96 * 64, max_pixels=112 * 84)
    clip = read_clip(folder / name, plan, video_processor)
    first_s = start_s or 0
    times_s = [first_s + n / 2 for n in range(len(clip.frames))]
    assert (plan.first_s, len(times_s)) == (first_s, 17 if first_s == 0 else 8)
    # Ten frames a second: the one on screen just before each time, which leaves it right then or 0.1 s later.
    assert [number_of(frame) for frame in clip.frames] == [max(0, math.ceil(time_s * 10) - 1) for time_s in times_s]
    assert clip.end_times_s == [round(max(time_s, 0.1), 6) for time_s in times_s]


def test_a_clip_is_cut_to_the_limit_of_frames(folder, video_processor):
    plan = plan_clip(folder / "a.mp4", 1, None, video_processor, max_frames=9, **LIMITS)
    assert (plan.n_frames, plan.n_uncut_frames) == (8, 38)
    assert len(read_clip(folder / "a.mp4", plan, video_processor).frames) == 8
    for max_frames in (1, 481):
        with pytest.raises(ValueError, match=f"max_frames={max_frames}: expected 2 to 480"):
            plan_clip(folder / "a.mp4", 1, None, video_processor, max_frames=max_frames)


def test_reading_stops_with_the_turn_that_holds_the_last_word(folder, video_processor):
    plan = plan_clip(folder / "a.mp4", 1, 18, video_processor, **LIMITS)
    whole = read_clip(folder / "a.mp4", plan, video_processor)
    for until_s, n_frames in ((0, 6), (3.5, 6), (3.51, 8), (4.5, 8), (17.4, 34), (17.6, 35), (18, 35), (99, 35)):
        clip = read_clip(folder / "a.mp4", plan, video_processor, until_s)
        assert len(clip.frames) == n_frames
        assert torch.equal(clip.frames, whole.frames[:n_frames])
        assert clip.end_times_s == whole.end_times_s[:n_frames]


def test_frames_of_a_still_picture_leave_the_screen_soon_after_their_time(tmp_path, video_processor):
    path = write_video(tmp_path / "v.mkv", times_s=[0, Fraction(1, 10), 8, Fraction(81, 10)], fps=10)
    plan = plan_clip(path, 0, None, video_processor, **LIMITS)
    clip = read_clip(path, plan, video_processor)
    assert max(end_s - n / 2 for n, end_s in enumerate(clip.end_times_s)) <= plan.hold_s + 1e-9 < 0.5
    assert all(a < b for a, b in pairwise(clip.end_times_s))


def test_a_frame_is_resized_once_and_only_kept_small(tmp_path, video_processor, monkeypatch):
    calls = []
    resize = clip_frames.resize_frame
    monkeypatch.setattr(clip_frames, "resize_frame", lambda *args: calls.append(1) or resize(*args))
    path = write_video(tmp_path / "v.mkv", times_s=[0, 3, 6], fps=10)
    clip = read_clip(path, plan_clip(path, 0, 6, video_processor, **LIMITS), video_processor)
    assert (len(clip.frames), len(calls)) == (13, 2)


def test_a_file_without_a_duration(tmp_path, video_processor):
    path = write_video(tmp_path / "v.mkv", n_frames=50, muxer_options={"live": "1"})
    plan = plan_clip(path, None, None, video_processor, **LIMITS)
    assert plan.n_frames == plan.n_uncut_frames == 10
    assert len(read_clip(path, plan, video_processor).frames) == 10
    assert plan_clip(path, None, 3, video_processor, **LIMITS).n_sampled == 7
    with pytest.raises(UnusableSample, match=r"no frame from 7 s to 9 s: .* and its end at 5\.00") as error:
        plan_clip(path, 7, 9, video_processor, **LIMITS)
    assert error.value.reason == "no_frames"


@pytest.mark.filterwarnings("ignore:.*cut short")
@pytest.mark.parametrize("said_s", [2, 500])
def test_a_header_with_a_wrong_length_cuts_no_clip(said_s, tmp_path, video_processor):
    path = claim_length(write_video(tmp_path / "v.mkv", n_frames=100), said_s)
    assert probe_video(path).duration_s == said_s
    for span, n_frames in (((None, None), 20), ((1, 8), 15), ((4, 9.9), 12), ((8, 30), 4)):
        clip = read_clip(path, plan_clip(path, *span, video_processor, **LIMITS), video_processor)
        assert len(clip.frames) == n_frames


@pytest.mark.parametrize(
    ("name", "start_s", "end_s", "reason", "message"),
    [
        ("none.mp4", 0, 1, "missing_file", "cannot be opened"),
        ("text.mp4", 0, 1, "unreadable_media", "not a video file"),
        ("sound.mp4", 0, 1, "unreadable_media", "no video stream"),
        ("a.mp4", 5, 4, "malformed", "from 5 to 4 s"),
        ("a.mp4", float("nan"), 4, "malformed", "start_s=nan"),
        ("a.mp4", 20, 25, "no_frames", "from 20 s to 25 s: its first is at 0.00 s and its end at 20.00 s"),
        ("sound_first.mp4", 0, 2, "no_frames", "its first is at 3.00 s"),
        ("broadcast.ts", 11, 12, "no_frames", "its first is at 0.00 s and its end at 10.00 s"),
    ],
)
def test_clips_that_cannot_be_read_say_why(name, start_s, end_s, reason, message, folder, video_processor):
    (folder / "text.mp4").write_text("hello")
    if name == "sound.mp4":
        write_audio(folder / name)
    with pytest.raises(UnusableSample, match=message) as error:
        plan_clip(folder / name, start_s, end_s, video_processor)
    assert error.value.reason == reason


def test_a_file_that_vanishes_or_changes_is_noticed(tmp_path, video_processor):
    path = write_video(tmp_path / "v.mp4", n_frames=50)
    plan = plan_clip(path, 0, None, video_processor)
    write_video(path, n_frames=80)
    os.utime(path, ns=(1, 1))
    assert plan_clip(path, 0, None, video_processor).n_sampled == 16
    path.unlink()
    with pytest.raises(UnusableSample) as error:
        read_clip(path, plan, video_processor)
    assert error.value.reason == "missing_file"


def test_contradictory_limits_are_not_the_samples_fault(folder, video_processor):
    with pytest.raises(ValueError, match="min_pixels=9000 is above max_pixels=8000") as error:
        plan_clip(folder / "a.mp4", 0, 5, video_processor, min_pixels=9000, max_pixels=8000)
    assert not isinstance(error.value, UnusableSample)


def test_a_video_that_changes_its_size_before_the_clip(tmp_path, video_processor):
    """The plan follows the file's first frame, and so do all its clips."""
    parts = [
        write_video(tmp_path / f"{i}.ts", n_frames=150, size_px=size) for i, size in enumerate([(96, 64), (64, 96)])
    ]
    late = write_video(tmp_path / "1.ts", times_s=[15 + Fraction(k, 10) for k in range(150)], size_px=(64, 96))
    path = tmp_path / "both.ts"
    path.write_bytes(parts[0].read_bytes() + late.read_bytes())
    plan = plan_clip(path, 26, 29, video_processor, **LIMITS)
    clip = read_clip(path, plan, video_processor)
    assert clip.frames.shape[1:] == (3, 56, 84)
