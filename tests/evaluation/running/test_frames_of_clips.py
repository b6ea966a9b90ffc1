"""Sampling the frames of a clip."""

import numpy as np
import pytest
from media import number_of, write_video

from livecc_hf.evaluation.running.commentary import resizer
from livecc_hf.evaluation.running.frames import n_frames_of, sample_clip
from livecc_hf.evaluation.tasks.questions import FrameRule


def kept(frames, _):
    return frames


class TestFrames:
    def test_the_references_frames(self, reference_dir, processor, load_frames):
        clip = sample_clip(reference_dir / "clip.mp4", 2.0, 9.0, FrameRule(), resizer(processor))
        expected = load_frames("once")
        assert clip.frames.shape == expected.shape
        assert (clip.frames.int() - expected.int()).abs().float().mean() < 0.1  # rounding of colours
        assert (clip.times_s[0], clip.times_s[-1]) == (2.0, 9.0)

    @pytest.mark.parametrize(
        ("rule", "total", "fps", "expected"),
        [
            (FrameRule(), 300, 30, 20),
            (FrameRule(), 30, 30, 4),  # at least four
            (FrameRule(), 3, 30, 2),
            (FrameRule(), 1, 30, 2),
            (FrameRule(), 30_000, 30, 480),
            (FrameRule(), 310, 30, 20),  # 20.67, in pairs
            (FrameRule(), 10, 1, 20),  # frames are repeated
            (FrameRule(n_frames=16), 300, 30, 16),
            (FrameRule(n_frames=64), 31, 30, 30),
        ],
    )
    def test_the_number_of_frames(self, rule, total, fps, expected):
        assert n_frames_of(rule, total, fps) == expected

    def test_frames_are_uniformly_spaced(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", n_frames=60, fps=10)
        clip = sample_clip(path, 1.0, 3.0, FrameRule(), kept)
        # Frames 9 to 29 leave the screen between 1.0 and 3.0 s; four are sampled, including the first and the last.
        assert [number_of(frame) for frame in clip.frames] == [9, 16, 22, 29]
        assert clip.times_s == pytest.approx([1.0, 1.7, 2.3, 3.0])
        whole = sample_clip(path, None, None, FrameRule(n_frames=6), kept)
        assert [number_of(frame) for frame in whole.frames] == [0, 12, 24, 35, 47, 59]

    def test_a_clip_has_at_least_a_second(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", n_frames=60, fps=10)
        assert sample_clip(path, 0, 0, FrameRule(), kept).times_s[-1] == pytest.approx(1.1)

    def test_times_are_those_that_a_player_shows(self, tmp_path):
        times = [10 + i / 10 for i in range(60)]
        path = write_video(tmp_path / "v.ts", times_s=times, fps=10, muxer="mpegts")
        clip = sample_clip(path, 1.0, 3.0, FrameRule(), kept)
        assert [number_of(frame) for frame in clip.frames] == [9, 16, 22, 29]

    def test_a_folder_of_frames(self, tmp_path):
        from PIL import Image

        for number in range(12):
            Image.new("RGB", (56, 56), (number * 20,) * 3).save(tmp_path / f"{number:05d}.png")
        clip = sample_clip(tmp_path, 1.0, 3.0, FrameRule(), kept)  # at 3 per second: pictures 3 to 8
        assert [int(frame[0, 0, 0]) // 20 for frame in clip.frames] == [3, 5, 6, 8]
        whole = sample_clip(tmp_path, None, None, FrameRule(), kept)  # as if at 2 per second
        assert len(whole.frames) == 12
        with pytest.raises(ValueError, match="has 12 pictures, none of them between 9"):
            sample_clip(tmp_path, 9.0, 12.0, FrameRule(), kept)

    def test_a_folder_of_pictures_of_different_shapes_is_no_video(self, tmp_path):
        from PIL import Image

        for number, size_px in enumerate([(56, 84), (84, 56)]):
            Image.new("RGB", size_px).save(tmp_path / f"{number:05d}.png")
        with pytest.raises(ValueError, match="the pictures in .* have different shapes"):
            sample_clip(tmp_path, None, None, FrameRule(), kept)

    def test_files_that_are_not_videos_are_refused(self, tmp_path):
        (tmp_path / "v.mp4").write_bytes(b"no video")
        with pytest.raises(ValueError, match=r"v\.mp4"):
            sample_clip(tmp_path / "v.mp4", 0, 1, FrameRule(), kept)


@pytest.mark.parametrize("option", ["fps", "min_frames", "max_frames", "n_frames", "max_pixels"])
def test_zero_is_refused_in_a_frame_rule(option):
    with pytest.raises(ValueError, match=f"{option}=0: expected"):
        FrameRule(**{option: 0})


def test_pictures_are_numbered(tmp_path):
    """The tests above rely on this."""
    clip = sample_clip(write_video(tmp_path / "v.mp4", n_frames=20, fps=10), None, None, FrameRule(n_frames=20), kept)
    assert np.array_equal([number_of(frame) for frame in clip.frames], range(20))
