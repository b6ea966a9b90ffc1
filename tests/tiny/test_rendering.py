"""Frames drawn for training look like frames that were encoded, decoded and resized."""

import numpy as np
import pytest
import torch

from livecc_hf.tiny.rendering import VIDEO_FPS, draw_frame, draw_frames, write_video
from livecc_hf.tiny.samples import FRAME_SIZE_PX, LIST_QUERY, list_clip, narration_clip
from livecc_hf.tiny.scene import COLOURS, SHAPES, ObjectTrack, Scene
from livecc_hf.tiny.world import simulate
from livecc_hf.video.reader import iter_chunks


def one_object(shape: str, colour: str, x: float = 0.5) -> Scene:
    track = ObjectTrack(shape, 0.0, pieces=[(0.0, x, 0.5, 0.0, 0.0)], colours=[(0.0, colour)])
    return Scene(4.0, [track], [], [])


def test_frames_are_uint8_and_deterministic():
    scene = simulate(2, 8)
    frames = draw_frames(scene, [0.0, 3.5], FRAME_SIZE_PX)
    assert frames.shape == (2, 3, 84, 84)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, draw_frames(scene, [0.0, 3.5], FRAME_SIZE_PX))


def test_every_shape_and_colour_looks_different():
    pictures = [draw_frame(one_object(s, c), 1.0, 84).astype(int) for s in SHAPES for c in COLOURS]
    for index, here in enumerate(pictures):
        for there in pictures[index + 1 :]:
            assert abs(here - there).max() > 60


def test_half_outside_is_cut_at_the_edge():
    assert draw_frame(one_object("ball", "red", x=1.0), 1.0, 84).shape == (84, 84, 3)


def test_small_drawings_match_decoded_video(tmp_path):
    scene = simulate(7, 8)
    write_video(scene, tmp_path / "clip.mp4")
    frames = torch.cat([chunk.frames for chunk in iter_chunks(tmp_path / "clip.mp4")])
    assert len(frames) == 16
    size = [FRAME_SIZE_PX, FRAME_SIZE_PX]
    small = torch.nn.functional.interpolate(frames.float(), size, mode="bicubic", antialias=True)
    times_s = [max(index / 2 - 1 / VIDEO_FPS, 0.0) for index in range(16)]
    difference = small.numpy() - draw_frames(scene, times_s, FRAME_SIZE_PX)
    assert abs(difference.mean()) < 3
    assert difference.std() < 4


def test_narration_clip_has_one_time_a_frame():
    clip = narration_clip(5, 12)
    assert clip.frames.shape == (24, 3, 84, 84)
    assert clip.timestamps_s == [index / 2 for index in range(24)]
    assert all(0 <= start_s < end_s <= 12 for start_s, end_s, _ in clip.words)


def test_list_clip_names_what_is_shown_in_each_turn():
    clip = list_clip(5, 3)
    assert clip.query == LIST_QUERY
    assert len(clip.frames) == 6 + 2 + 2
    assert {end_s for _, end_s, _ in clip.words} <= {2.5, 3.5, 4.5}
    assert len(clip.words) % 3 == 0


def test_unknown_mood_is_refused():
    with pytest.raises(ValueError, match="'wild'.*calm"):
        narration_clip(0, 8, "wild")
