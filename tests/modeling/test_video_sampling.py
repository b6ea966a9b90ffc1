"""The file reader of a model's folder: which frames it samples, and how it reads unusual files."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from chosen import numbers, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media import number_of, write_video
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from livecc_hf.modeling.video_file import VideoReadError, VideoReadWarning
from livecc_hf.modeling.video_sampling import iter_frames
from livecc_hf.video.reader import probe_video

# Damage on a sound file fails a test; tests of damaged files catch theirs.
pytestmark = pytest.mark.filterwarnings("error::livecc_hf.modeling.video_file.VideoReadWarning")


def expected_numbers(times, last_s, fps=2, start=None, end=None):
    """Brute-force reference: the first frame whose display ends at or after the sample time."""
    ends = [*times[1:], times[-1] + last_s]
    first = times[0] if start is None else max(start, times[0])
    chosen, n = [], 0
    while (time := first + Fraction(n) / fps) < ends[-1] and (end is None or time < end):
        chosen.append(next(i for i, shown_until in enumerate(ends) if shown_until >= time))
        n += 1
    return chosen


class TestChoice:
    def test_sampled_frames_equal_the_reference(self, reference_dir):
        recorded = np.load(reference_dir / "live_cc_frames.npz")
        sampled = list(iter_frames(reference_dir / "clip.mp4"))
        assert [f.time_s for f in sampled] == recorded["timestamps"].tolist()
        assert [round(f.pts_s * 30) for f in sampled] == recorded["frame_indices"].tolist()
        frames = resize(torch.stack([f.frame for f in sampled]), [168, 252], InterpolationMode.BICUBIC, antialias=True)
        difference = (frames.int() - torch.from_numpy(recorded["frames"]).int()).abs()
        assert difference.float().mean((1, 2, 3)).max() < 0.2  # the neighbouring frames differ by more than 1

    def test_times_of_a_training_clip_are_exact(self, reference_dir):
        """The reference compares float32 times, so its frames from the 15th on are one source frame later."""
        sample = json.loads((reference_dir / "train_sample.json").read_text())
        video = sample["conversation"][0]["content"][0]
        sampled = list(iter_frames(reference_dir / "clip.mp4", video["video_start"], video["video_end"]))
        assert [f.time_s for f in sampled] == [pytest.approx(1.4 + n / 2, abs=1e-9) for n in range(23)]
        recorded = sample["plain"]["frame_pts"]
        assert [f.time_s for f in sampled[:14]] == pytest.approx(recorded[:14], abs=1e-6)
        assert [f.time_s for f in sampled] == pytest.approx(recorded[:23], abs=1 / 30 + 1e-6)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".webm"])
    @pytest.mark.parametrize("first", [0, 5], ids=["from_0", "late"])
    def test_a_file_with_a_variable_frame_rate(self, tmp_path, suffix, first):
        times = [first + Fraction(t) / 10 for t in (0, 1, 2, 5, 6, 27, 28, 30, 31, 32, 40)]
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        path = write_video(tmp_path / f"video{suffix}", times_s=times, codec=codec)
        assert numbers(path) == expected_numbers(times, Fraction(1, 10))
        assert [f.time_s for f in iter_frames(path)] == [first + n / 2 for n in range(9)]
        assert probe_video(path).first_pts_s == first

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        gaps=st.lists(st.integers(1, 900), min_size=1, max_size=12),
        fps=st.sampled_from([Fraction(2), Fraction(3), Fraction(1, 2), Fraction(30)]),
        start=st.none() | st.integers(-100, 4000),
        length=st.none() | st.integers(1, 3000),
    )
    def test_random_files_and_ranges_follow_the_sampling_rule(self, tmp_path, gaps, fps, start, length):
        times = [Fraction(sum(gaps[:i]), 1000) for i in range(len(gaps) + 1)]
        path = write_video(tmp_path / "video.mkv", times_s=times, clock=1000, codec="ffv1", pixel_format="gray")
        start = None if start is None else Fraction(start, 1000)
        end = None if length is None else (start or 0) + Fraction(length, 1000)
        expected = expected_numbers(times, Fraction(1, 10), fps, start, end)
        if expected:
            assert numbers(path, start, end, fps) == expected
        else:
            with pytest.raises(VideoReadError):
                numbers(path, start, end, fps)

    def test_negative_times_are_sampled(self, tmp_path):
        path = write_video(
            tmp_path / "video.ts",
            times_s=[Fraction(i - 10, 10) for i in range(30)],
            muxer_options={"avoid_negative_ts": "disabled"},
        )
        assert read(path) == [(0, -1.0), (4, -0.5), (9, 0.0), (14, 0.5), (19, 1.0), (24, 1.5)]
        assert read(path, start_s=0) == [(9, 0.0), (14, 0.5), (19, 1.0), (24, 1.5)]

    def test_a_file_without_timestamps_is_timed_by_its_frame_rate(self, tmp_path):
        path = write_video(tmp_path / "video.h264", n_frames=50, fps=25, codec_options={"bf": "3", "preset": "medium"})
        assert numbers(path) == [0, 12, 24, 37]
        assert probe_video(path).duration_s is None

    def test_b_frames_are_sampled_in_display_order(self, tmp_path):
        for suffix in (".mp4", ".mkv", ".ts"):
            path = write_video(tmp_path / f"b{suffix}", codec_options={"bf": "3", "preset": "medium"})
            assert numbers(path) == [0, 4, 9, 14, 19, 24]

    def test_frames_are_repeated_above_the_files_rate(self, tmp_path):
        path = write_video(tmp_path / "slow.mp4", n_frames=3, fps=1)
        assert read(path) == [(0, 0.0), (0, 0.5), (0, 1.0), (1, 1.5), (1, 2.0), (2, 2.5)]

    def test_a_video_shorter_than_a_turn(self, tmp_path):
        assert read(write_video(tmp_path / "one.mp4", n_frames=1)) == [(0, 0.0)]
        assert numbers(write_video(tmp_path / "two.mp4", n_frames=9)) == [0, 4]

    def test_start_and_end_select_a_range(self, tmp_path):
        path = write_video(tmp_path / "video.mp4")
        assert read(path, start_s=0) == read(path) == read(path, end_s=3) == read(path, end_s=99)
        assert read(path, start_s=-5, end_s=1) == [(0, 0.0), (4, 0.5)]
        assert read(path, start_s=1.25, end_s=2.25) == [(12, 1.25), (17, 1.75)]
        assert read(path, start_s=1.1, end_s=1.6) == [(10, 1.1)]  # 1.1 is 11/10, not the float next to it
        assert read(path, start_s=2.95) == [(29, 2.95)]
        late = write_video(tmp_path / "late.mp4", times_s=[5 + i / 10 for i in range(30)])
        assert read(late, start_s=2, end_s=6) == [(0, 5.0), (4, 5.5)]


def four_corners(index):
    """Top left red, top right green, bottom left blue, bottom right white."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48, 0] = picture[:32, 48:, 1] = picture[32:, :48, 2] = 255
    picture[32:, 48:] = 255
    return picture


def corners_of(frame):
    """The letters of `four_corners` as displayed: top row, then bottom row."""
    names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 1): "W"}
    ys, xs = (10, -10), (10, -10)
    return "".join(names[tuple((frame[:, y, x] > 128).int().tolist())] for y in ys for x in xs)


class TestPicture:
    @pytest.mark.parametrize(
        ("rotation", "mirror", "displayed"),
        [
            (0, False, "RGBW"),
            (90, False, "GWRB"),
            (180, False, "WBGR"),
            (-90, False, "BRWG"),
            (0, True, "GRWB"),
            (90, True, "WGBR"),
            (180, True, "BWRG"),
            (-90, True, "RBGW"),
        ],
    )
    def test_rotated_and_mirrored_videos_are_turned_upright(self, tmp_path, rotation, mirror, displayed):
        path = write_video(tmp_path / "phone.mp4", n_frames=5, rotation_deg=rotation, mirror=mirror, paint=four_corners)
        frame = next(iter_frames(path)).frame
        info = probe_video(path)
        assert corners_of(frame) == displayed
        assert frame.shape == (3, info.height, info.width) == ((3, 96, 64) if abs(rotation) == 90 else (3, 64, 96))
        assert frame.is_contiguous()
        if not mirror:
            assert info.rotation_deg == rotation % 360

    @pytest.mark.parametrize(
        ("codec", "pixel_format", "suffix"),
        [
            ("libx264", "yuv444p", ".mp4"),
            ("ffv1", "yuv420p10le", ".mkv"),
            ("ffv1", "gray", ".mkv"),
            ("ffv1", "bgra", ".mkv"),
            ("ffv1", "yuva420p", ".mkv"),
            ("png", "rgba", ".mov"),
            ("mjpeg", "yuvj420p", ".mov"),
        ],
    )
    def test_every_pixel_format_is_converted_to_rgb(self, tmp_path, codec, pixel_format, suffix):
        path = write_video(tmp_path / f"a{suffix}", codec=codec, pixel_format=pixel_format, n_frames=20)
        assert numbers(path) == [0, 4, 9, 14]
        if pixel_format != "gray":
            options = {"codec": codec, "pixel_format": pixel_format, "paint": four_corners}
            path = write_video(tmp_path / f"b{suffix}", n_frames=2, **options)
            assert corners_of(next(iter_frames(path)).frame) == "RGBW"

    def test_frames_of_odd_size(self, tmp_path):
        path = write_video(tmp_path / "odd.mkv", codec="ffv1", pixel_format="bgr0", size_px=(97, 63))
        assert next(iter_frames(path)).frame.shape == (3, 63, 97)
        assert numbers(path) == [0, 4, 9, 14, 19, 24]

    def test_frames_are_resized_to_the_first_ones_size(self, tmp_path):
        small = write_video(tmp_path / "a.ts", n_frames=20)
        large = write_video(tmp_path / "b.ts", times_s=[2 + i / 10 for i in range(20)], size_px=(192, 160))
        both = tmp_path / "both.ts"
        both.write_bytes(small.read_bytes() + large.read_bytes())
        with pytest.warns(VideoReadWarning, match=r"1 damaged spot"):  # where the size changes
            sampled = list(iter_frames(both))
        assert {f.frame.shape for f in sampled} == {(3, 64, 96)}
        assert [number_of(f.frame) for f in sampled] == [0, 4, 9, 14, 19, 4, 9, 14]


MEASURE_MEMORY = """
import resource, sys
from livecc_hf.modeling.video_sampling import iter_frames
kib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count, early = 0, None
for count, sampled in enumerate(iter_frames(sys.argv[1]), 1):
    if count == 200:
        early = kib()
print(count, kib() - early)
"""


@pytest.mark.slow
def test_two_hours_need_no_more_memory_than_two_minutes(tmp_path):
    path = write_video(tmp_path / "long.mp4", n_frames=2 * 7200, fps=2, size_px=(160, 120), codec_options={"g": "200"})
    output = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY, str(path)], capture_output=True, text=True, check=True
    ).stdout
    count, growth_kib = map(int, output.split())
    assert count == 2 * 7200
    assert growth_kib < 16 * 1024, f"{growth_kib} KiB more after two hours than after two minutes"


def test_the_reader_can_be_imported_without_pyav():
    """The code in a model's folder is imported even if PyAV is missing."""
    source = Path(sys.modules[iter_frames.__module__].__file__).parent
    for name in ("video_file.py", "video_sampling.py"):
        assert not any(line.startswith(("import av", "from av")) for line in (source / name).read_text().splitlines())


def test_display_ends_are_the_times_of_the_recorded_training_sample(reference_dir):
    """The recorded times are rounded to float32, so some samples are one source frame later."""
    recorded = json.loads((reference_dir / "train_sample.json").read_text())["plain"]["frame_pts"]
    frames = list(iter_frames(reference_dir / "clip.mp4", start_s=1.4, end_s=12.45))
    ends_s = [frame.end_s for frame in frames]
    assert all(frame.pts_s < frame.time_s <= frame.end_s for frame in frames)
    assert len(ends_s) == len(recorded) - 1  # an odd count repeats the last frame
    for ours, theirs in zip(ends_s, recorded):
        assert ours == pytest.approx(theirs, abs=1e-6) or ours == pytest.approx(theirs - 1 / 30, abs=1e-6)
