"""The file reader: which frames it chooses, and what it makes of odd and damaged files."""

import json
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media import number_of, write_audio, write_tone, write_video
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from livecc_hf.modeling import video_packets_livecc, video_reader_livecc
from livecc_hf.modeling.video_packets_livecc import PacketFilter, PictureKind
from livecc_hf.modeling.video_reader_livecc import (
    VideoReadError,
    VideoReadWarning,
    iter_chunks,
    iter_frames,
    probe_video,
)


@pytest.fixture(autouse=True)
def _damage_is_an_error():
    """A warning about damage on a sound file fails the test; tests of damaged files catch theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", VideoReadWarning)
        yield


def read(path, *args, **options):
    """(number painted on the frame, its sample time) of each frame chosen."""
    return [(number_of(f.frame), round(f.time_s, 6)) for f in iter_frames(path, *args, **options)]


def numbers(path, *args, **options):
    return [number for number, _ in read(path, *args, **options)]


def expected_numbers(times, last_s, fps=2, start=None, end=None):
    """The rule, by brute force: the first frame whose display ends at or after the sample time."""
    ends = [*times[1:], times[-1] + last_s]
    first = times[0] if start is None else max(start, times[0])
    chosen, n = [], 0
    while (time := first + Fraction(n) / fps) < ends[-1] and (end is None or time < end):
        chosen.append(next(i for i, shown_until in enumerate(ends) if shown_until >= time))
        n += 1
    return chosen


class TestChoice:
    def test_is_that_of_the_reference(self, reference_dir):
        recorded = np.load(reference_dir / "live_cc_frames.npz")
        sampled = list(iter_frames(reference_dir / "clip.mp4"))
        assert [f.time_s for f in sampled] == recorded["timestamps"].tolist()
        assert [round(f.pts_s * 30) for f in sampled] == recorded["frame_indices"].tolist()
        frames = resize(torch.stack([f.frame for f in sampled]), [168, 252], InterpolationMode.BICUBIC, antialias=True)
        difference = (frames.int() - torch.from_numpy(recorded["frames"]).int()).abs()
        assert difference.float().mean((1, 2, 3)).max() < 0.2  # the neighbouring frames differ by more than 1

    def test_of_a_training_clip_has_exact_times(self, reference_dir):
        """The reference compares float32 times: from the 15th on, its frames sit one source frame later."""
        sample = json.loads((reference_dir / "train_sample.json").read_text())
        video = sample["conversation"][0]["content"][0]
        sampled = list(iter_frames(reference_dir / "clip.mp4", video["video_start"], video["video_end"]))
        assert [f.time_s for f in sampled] == [pytest.approx(1.4 + n / 2, abs=1e-9) for n in range(23)]
        recorded = sample["plain"]["frame_pts"]
        assert [f.time_s for f in sampled[:14]] == pytest.approx(recorded[:14], abs=1e-6)
        assert [f.time_s for f in sampled] == pytest.approx(recorded[:23], abs=1 / 30 + 1e-6)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".webm"])
    @pytest.mark.parametrize("first", [0, 5], ids=["from_0", "late"])
    def test_at_a_variable_rate(self, tmp_path, suffix, first):
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
    def test_follows_the_rule_anywhere(self, tmp_path, gaps, fps, start, length):
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

    def test_counts_negative_times(self, tmp_path):
        path = write_video(
            tmp_path / "video.ts",
            times_s=[Fraction(i - 10, 10) for i in range(30)],
            muxer_options={"avoid_negative_ts": "disabled"},
        )
        assert read(path) == [(0, -1.0), (4, -0.5), (9, 0.0), (14, 0.5), (19, 1.0), (24, 1.5)]
        assert read(path, start_s=0) == [(9, 0.0), (14, 0.5), (19, 1.0), (24, 1.5)]

    def test_of_a_file_without_timestamps_uses_its_rate(self, tmp_path):
        path = write_video(tmp_path / "video.h264", n_frames=50, fps=25, codec_options={"bf": "3", "preset": "medium"})
        assert numbers(path) == [0, 12, 24, 37]
        assert probe_video(path).duration_s is None

    def test_with_b_frames(self, tmp_path):
        for suffix in (".mp4", ".mkv", ".ts"):
            path = write_video(tmp_path / f"b{suffix}", codec_options={"bf": "3", "preset": "medium"})
            assert numbers(path) == [0, 4, 9, 14, 19, 24]

    def test_above_the_files_rate_repeats(self, tmp_path):
        path = write_video(tmp_path / "slow.mp4", n_frames=3, fps=1)
        assert read(path) == [(0, 0.0), (0, 0.5), (0, 1.0), (1, 1.5), (1, 2.0), (2, 2.5)]

    def test_of_a_video_shorter_than_a_turn(self, tmp_path):
        assert read(write_video(tmp_path / "one.mp4", n_frames=1)) == [(0, 0.0)]
        assert numbers(write_video(tmp_path / "two.mp4", n_frames=9)) == [0, 4]

    def test_of_a_range(self, tmp_path):
        path = write_video(tmp_path / "video.mp4")
        assert read(path, start_s=0) == read(path) == read(path, end_s=3) == read(path, end_s=99)
        assert read(path, start_s=-5, end_s=1) == [(0, 0.0), (4, 0.5)]
        assert read(path, start_s=1.25, end_s=2.25) == [(12, 1.25), (17, 1.75)]
        assert read(path, start_s=1.1, end_s=1.6) == [(10, 1.1)]  # 1.1 is 11/10, not the float next to it
        assert read(path, start_s=2.95) == [(29, 2.95)]
        late = write_video(tmp_path / "late.mp4", times_s=[5 + i / 10 for i in range(30)])
        assert read(late, start_s=2, end_s=6) == [(0, 5.0), (4, 5.5)]

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".webm", ".avi"])
    def test_after_a_seek_is_the_same(self, tmp_path, suffix):
        codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
        bf = {"bf": "3", "preset": "medium"} if codec == "libx264" else {}
        path = write_video(
            tmp_path / f"long{suffix}", n_frames=400, codec=codec, clock=10, codec_options={"g": "70"} | bf
        )
        whole = read(path)
        assert len(whole) == 80
        for n in range(20, 80, 7):
            assert read(path, start_s=whole[n][1], end_s=whole[n][1] + 2) == whole[n : n + 4]
        assert read(path, start_s=whole[-1][1]) == whole[-1:]

    def test_after_a_seek_that_fails_is_the_same(self, tmp_path, monkeypatch):
        path = write_video(tmp_path / "video.mkv", n_frames=300, codec_options={"g": "1000"})
        expected = numbers(path)[40:]
        assert numbers(path, start_s=20) == expected
        from livecc_hf.modeling import video_file_livecc

        monkeypatch.setattr(video_file_livecc.VideoSource, "frames_before", lambda *_: None)
        assert numbers(path, start_s=20) == expected


@pytest.fixture
def skipping(monkeypatch):
    """Reads a file as usual, and decoding all of it: a function that returns what both give, and the packets skipped.

    Each is a list of (pixels, sample, presentation and end time) of each frame.
    """
    n_skipped, decode_all = 0, False
    skip, may_skip = PacketFilter._skip, PacketFilter._may_skip

    def count(self, entry):
        nonlocal n_skipped
        n_skipped += 1
        skip(self, entry)

    monkeypatch.setattr(PacketFilter, "_skip", count)
    monkeypatch.setattr(PacketFilter, "_may_skip", lambda self: not decode_all and may_skip(self))

    def read_both(path, *args, **options):
        nonlocal n_skipped, decode_all
        n_skipped = 0
        given = []
        for whole in (False, True):
            decode_all = whole
            frames = iter_frames(path, *args, **options)
            given.append([(f.frame.numpy().tobytes(), f.time_s, f.pts_s, f.end_s) for f in frames])
        return *given, n_skipped

    return read_both


GRAIN = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def noisy(index):
    """Two grainy pictures that move apart: each frame differs from the next one everywhere."""
    return np.roll(GRAIN, index, 1) // 2 + np.roll(GRAIN, -index, 0) // 4


class TestSkipping:
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
    @pytest.mark.parametrize(
        ("codec_options", "skipped_at_least"),
        [
            ({"bf": "3", "preset": "medium"}, 60),
            ({"bf": "7", "preset": "medium", "x264-params": "b-pyramid=none:b-adapt=0"}, 90),
            ({"bf": "0", "g": "11"}, 60),
            ({"bf": "2", "g": "10", "preset": "medium"}, 80),
            ({"bf": "3", "g": "20", "preset": "medium", "x264-params": "open-gop=1"}, 60),
            ({"g": "1"}, 150),
            ({"bf": "0", "g": "1000"}, 0),
            ({"bf": "3", "preset": "medium", "flags": "+ildct+ilme", "x264-params": "tff=1"}, 0),
        ],
        ids=["pyramid", "flat", "short_gop", "short_gop_b", "open_gop", "intra", "no_b", "interlaced"],
    )
    def test_gives_the_same_frames(self, tmp_path, skipping, suffix, codec_options, skipped_at_least):
        path = write_video(tmp_path / f"video{suffix}", n_frames=200, fps=30, paint=noisy, codec_options=codec_options)
        usual, all_decoded, n_skipped = skipping(path)
        assert usual == all_decoded
        assert len(usual) == 14
        assert n_skipped >= skipped_at_least
        if not skipped_at_least:
            assert n_skipped < 10  # at most what follows the last sample before a key frame
        usual, all_decoded, _ = skipping(path, start_s=1.23, end_s=5.6, fps=7)
        assert usual == all_decoded

    @pytest.mark.parametrize(
        ("codec", "suffix", "skips"),
        [("mjpeg", ".mov", True), ("libx265", ".mp4", False), ("mpeg4", ".avi", False), ("libvpx-vp9", ".webm", False)],
    )
    def test_of_other_codecs_only_where_exact(self, tmp_path, skipping, codec, suffix, skips):
        options = {"codec_options": {"x265-params": "log-level=none"}} if codec == "libx265" else {}
        if codec == "mpeg4":
            options["clock"] = 30
        if codec == "mjpeg":
            options["pixel_format"] = "yuvj420p"
        path = write_video(tmp_path / f"video{suffix}", n_frames=90, fps=30, paint=noisy, codec=codec, **options)
        usual, all_decoded, n_skipped = skipping(path)
        assert usual == all_decoded
        assert (n_skipped > 60) == skips

    def test_at_a_variable_rate(self, tmp_path, skipping):
        gaps = np.random.default_rng(0).choice([1, 2, 3, 5, 40, 90], 150, p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
        times = [Fraction(int(t), 60) for t in np.cumsum(gaps)]
        for suffix in (".mp4", ".mkv", ".ts"):
            options = {"bf": "3", "preset": "medium", "g": "30", "x264-params": "b-adapt=0"}
            path = write_video(tmp_path / f"video{suffix}", times_s=times, fps=60, paint=noisy, codec_options=options)
            usual, all_decoded, n_skipped = skipping(path)
            assert usual == all_decoded
            assert n_skipped > 20

    @pytest.mark.parametrize("frame_number", [30, 90, 140])
    def test_that_went_wrong_reads_again_from_there(self, tmp_path, monkeypatch, skipping, frame_number):
        path = write_video(
            tmp_path / "video.mp4", n_frames=400, fps=30, paint=noisy, codec_options={"g": "10", "bf": "0"}
        )
        n_frames, starts = 0, []
        account, read_file = PacketFilter.skipped_before, video_reader_livecc._Sampler.read

        def fail_once(self, frame):
            nonlocal n_frames
            n_frames += 1
            if n_frames == frame_number:
                self.give_up()
            return account(self, frame)

        def note_start(self, start, skip):
            starts.append(start)
            return read_file(self, start, skip)

        monkeypatch.setattr(PacketFilter, "skipped_before", fail_once)
        monkeypatch.setattr(video_reader_livecc._Sampler, "read", note_start)
        usual, all_decoded, _ = skipping(path)
        assert usual == all_decoded
        assert len(starts) == 3 and starts[0] is starts[2] is None
        assert 1 < starts[1] < 13

    def test_of_a_damaged_file_reads_it_again_whole(self, tmp_path, skipping):
        path = write_video(
            tmp_path / "video.ts", n_frames=200, fps=30, paint=noisy, codec_options={"bf": "0", "g": "10"}
        )
        data = path.read_bytes()
        middle = len(data) // 188 // 2 * 188
        path.write_bytes(data[:middle] + data[middle + 20 * 188 :])
        with pytest.warns(VideoReadWarning) as warned:
            usual, all_decoded, n_skipped = skipping(path)
        assert len({str(warning.message) for warning in warned}) == 1 and len(warned) == 2
        assert [frame[1:] for frame in usual] == [frame[1:] for frame in all_decoded]
        assert n_skipped > 20

    def test_reads_parameter_sets(self):
        """Of x264, 1080p: High profile, progressive and interlaced; and what is cut short."""
        progressive = bytes.fromhex("67640028acd940780227e5c05a808080a0000003002000000781e30632c0")
        assert video_packets_livecc._is_plain_progressive(progressive)
        assert not video_packets_livecc._is_plain_progressive(progressive[:6])
        assert not video_packets_livecc._is_plain_progressive(b"")

    @pytest.mark.parametrize(
        ("units", "kind"),
        [
            ([b"\x65"], PictureKind.START),
            ([b"\x41"], PictureKind.REFERENCE),
            ([b"\x01"], PictureKind.DISPOSABLE),
            ([b"\x09\xf0", b"\x06\x05", b"\x01"], PictureKind.DISPOSABLE),
            ([b"\x68\xee", b"\x01"], PictureKind.REFERENCE),
            ([b"\x67\x64", b"\x65"], PictureKind.UNKNOWN),
            ([b"\x02"], PictureKind.UNKNOWN),
            ([b"\x06\x05"], PictureKind.UNKNOWN),
        ],
    )
    def test_tells_pictures_apart(self, units, kind):
        units = [unit + b"\x80\x22\x33" for unit in units]
        annex_b = b"".join(b"\0\0\1" + unit for unit in units)
        prefixed = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
        assert video_packets_livecc._h264_kind(annex_b, 0, b"\x67\x42") is kind
        assert video_packets_livecc._h264_kind(prefixed, 4, b"\x67\x42") is kind
        assert video_packets_livecc._h264_kind(prefixed[:-1], 4, b"\x67\x42") is PictureKind.UNKNOWN


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
    def test_is_upright(self, tmp_path, rotation, mirror, displayed):
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
    def test_from_any_pixel_format(self, tmp_path, codec, pixel_format, suffix):
        path = write_video(tmp_path / f"a{suffix}", codec=codec, pixel_format=pixel_format, n_frames=20)
        assert numbers(path) == [0, 4, 9, 14]
        if pixel_format != "gray":
            options = {"codec": codec, "pixel_format": pixel_format, "paint": four_corners}
            path = write_video(tmp_path / f"b{suffix}", n_frames=2, **options)
            assert corners_of(next(iter_frames(path)).frame) == "RGBW"

    def test_of_odd_size(self, tmp_path):
        path = write_video(tmp_path / "odd.mkv", codec="ffv1", pixel_format="bgr0", size_px=(97, 63))
        assert next(iter_frames(path)).frame.shape == (3, 63, 97)
        assert numbers(path) == [0, 4, 9, 14, 19, 24]

    def test_that_changes_size_keeps_the_first_size(self, tmp_path):
        small = write_video(tmp_path / "a.ts", n_frames=20)
        large = write_video(tmp_path / "b.ts", times_s=[2 + i / 10 for i in range(20)], size_px=(192, 160))
        both = tmp_path / "both.ts"
        both.write_bytes(small.read_bytes() + large.read_bytes())
        with pytest.warns(VideoReadWarning, match=r"1 damaged spot"):  # the seam
            sampled = list(iter_frames(both))
        assert {f.frame.shape for f in sampled} == {(3, 64, 96)}
        assert [number_of(f.frame) for f in sampled] == [0, 4, 9, 14, 19, 4, 9, 14]


class TestChunks:
    def test_group_frames(self, tmp_path):
        path = write_video(tmp_path / "video.mp4", n_frames=25)
        chunks = list(iter_chunks(path, start_s=0.5))
        assert [c.frames.shape for c in chunks] == [(2, 3, 64, 96), (2, 3, 64, 96)]
        assert [c.timestamps_s for c in chunks] == [[0.5, 1.0], [1.5, 2.0]]
        chunks = list(iter_chunks(path, frames_per_chunk=3))
        assert [len(c.frames) for c in chunks] == [3, 2]
        assert chunks[0].frames.dtype == torch.uint8
        assert [number_of(f) for c in chunks for f in c.frames] == numbers(path)

    def test_refuse_a_size_below_one(self, tmp_path):
        with pytest.raises(ValueError, match=r"frames_per_chunk=0: expected at least 1"):
            iter_chunks(write_video(tmp_path / "video.mp4"), frames_per_chunk=0)


class TestErrors:
    @pytest.mark.parametrize("read_it", [probe_video, lambda p: list(iter_frames(p))], ids=["probe", "frames"])
    def test_of_what_is_no_video(self, tmp_path, read_it):
        text = tmp_path / "notes.txt"
        text.write_text("not a video\n" * 50)
        renamed = tmp_path / "renamed.mp4"
        renamed.write_text("not a video\n" * 50)
        empty = tmp_path / "empty.mp4"
        empty.touch()
        subtitles = tmp_path / "captions.srt"
        subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
        with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.mp4"):
            read_it(tmp_path / "none.mp4")
        for path, message in (
            (tmp_path, "is a folder: expected a video file"),
            (text, "is a text file, not a video"),
            (renamed, "is not a video file that can be read"),
            (empty, "is not a video file that can be read"),
            (subtitles, r"has no video stream to watch \(it holds: subtitle\)"),
            (write_audio(tmp_path / "tone.m4a"), r"has no video stream to watch \(it holds: audio\)"),
        ):
            with pytest.raises(VideoReadError, match=message):
                read_it(path)

    def test_a_cover_picture_is_no_video(self, tmp_path):
        path = tmp_path / "song.mp4"
        with av.open(str(path), "w") as container:
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            audio = container.add_stream("aac", rate=16_000)
            picture = av.VideoFrame.from_ndarray(four_corners(0), format="rgb24").reformat(format="yuvj420p")
            container.mux(cover.encode(picture))
            container.mux(cover.encode(None))
            write_tone(container, audio, 1.0)
        with pytest.raises(VideoReadError, match="no video stream"):
            probe_video(path)

    def test_of_arguments_come_at_the_call(self, tmp_path):
        path = write_video(tmp_path / "video.mp4")
        for options, message in (
            ({"fps": 0}, r"fps=0: expected a rate above 0"),
            ({"fps": float("nan")}, r"fps=nan: expected a finite number"),
            ({"start_s": "1"}, r"start_s='1': expected a finite number"),
            ({"start_s": 2, "end_s": 2}, r"end_s=2 is not after start_s=2"),
        ):
            with pytest.raises(ValueError, match=message):
                iter_frames(path, **options)
        with pytest.raises(FileNotFoundError):
            iter_frames(tmp_path / "none.mp4")

    @pytest.mark.parametrize("n_frames", [30, 300])
    def test_of_a_range_outside_the_video_name_its_limits(self, tmp_path, n_frames):
        path = write_video(tmp_path / "video.mp4", n_frames=n_frames, codec_options={"g": "20"})
        with pytest.raises(VideoReadError, match=rf"start_s=99 lies past the end of .*, at {n_frames / 10:.2f} s"):
            list(iter_frames(path, start_s=99))
        late = write_video(tmp_path / "late.mp4", times_s=[5, 5.1])
        with pytest.raises(VideoReadError, match=r"end_s=4: the first frame of .* is at 5 s"):
            list(iter_frames(late, end_s=4))

    def test_of_a_missing_decoder_says_what_to_install(self, tmp_path, monkeypatch):
        path = write_video(tmp_path / "video.mp4")
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError, match="pip install av"):
            probe_video(path)


class TestDamage:
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    @pytest.mark.parametrize("audio_s", [None, 10])
    def test_a_file_cut_short_gives_what_is_there(self, tmp_path, suffix, audio_s):
        options = {"movflags": "faststart"} if suffix == ".mp4" else {}
        path = write_video(
            tmp_path / f"whole{suffix}", n_frames=100, audio_s=audio_s, muxer_options=options, codec_options={"g": "5"}
        )
        whole = path.read_bytes()
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole[: len(whole) * 6 // 10])
        with pytest.warns(VideoReadWarning, match=r"[1-9]\.\d s of video were decoded, .*cut short .*ends at 10\.\d s"):
            sampled = numbers(cut)
        assert 4 <= len(sampled) < 18
        # The last picture decoded may be concealed damage.
        assert sampled[:-2] == numbers(path)[: len(sampled) - 2]

    def test_a_range_before_the_cut_is_sound(self, tmp_path):
        path = write_video(tmp_path / "whole.mkv", n_frames=100, codec_options={"g": "5"})
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        assert numbers(cut, end_s=2) == [0, 4, 9, 14]

    def test_holes_are_skipped(self, tmp_path):
        path = write_video(tmp_path / "video.ts", n_frames=100, codec_options={"g": "1"})
        data = path.read_bytes()
        middle = len(data) // 188 // 2 * 188
        path.write_bytes(data[:middle] + data[middle + 20 * 188 :])
        with pytest.warns(
            VideoReadWarning, match=r"10\.0 s of video were decoded.*damaged spot\(s\) were skipped or patched"
        ):
            sampled = read(path)
        assert sampled[:6] == [(0, 0.0), (4, 0.5), (9, 1.0), (14, 1.5), (19, 2.0), (24, 2.5)]
        assert sampled[-1] == (94, 9.5)

    def test_a_clock_that_jumps_back_is_reported(self, tmp_path):
        first = write_video(tmp_path / "a.ts", n_frames=20)
        second = write_video(tmp_path / "b.ts", n_frames=10)
        both = tmp_path / "both.ts"
        both.write_bytes(first.read_bytes() + second.read_bytes())
        with pytest.warns(VideoReadWarning, match="with a time in the past were skipped"):
            assert numbers(both) == [0, 4, 9, 14]

    def test_nothing_decodable_is_an_error(self, tmp_path):
        path = write_video(tmp_path / "video.mp4", n_frames=20, muxer_options={"movflags": "faststart"})
        data = bytearray(path.read_bytes())
        start = data.index(b"mdat") + 4
        data[start:] = b"\xff" * (len(data) - start)
        path.write_bytes(data)
        for read_it in (probe_video, lambda p: list(iter_frames(p))):
            with pytest.raises(VideoReadError, match="not one frame of it could be decoded"):
                read_it(path)


MEASURE_MEMORY = """
import resource, sys
from livecc_hf.modeling.video_reader_livecc import iter_frames
kib = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count, early = 0, None
for count, sampled in enumerate(iter_frames(sys.argv[1]), 1):
    if count == 200:
        early = kib()
print(count, kib() - early)
"""


@pytest.mark.slow
def test_two_hours_take_no_more_memory_than_two_minutes(tmp_path):
    path = write_video(tmp_path / "long.mp4", n_frames=2 * 7200, fps=2, size_px=(160, 120), codec_options={"g": "200"})
    output = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY, str(path)], capture_output=True, text=True, check=True
    ).stdout
    count, growth_kib = map(int, output.split())
    assert count == 2 * 7200
    assert growth_kib < 16 * 1024, f"{growth_kib} KiB more after two hours than after two minutes"


def test_the_reader_needs_no_decoder_to_be_imported():
    """The remote code of a model folder is imported where PyAV may be missing."""
    source = Path(sys.modules[iter_frames.__module__].__file__).parent
    for name in ("video_file_livecc.py", "video_reader_livecc.py"):
        assert not any(line.startswith(("import av", "from av")) for line in (source / name).read_text().splitlines())


def test_display_ends_are_the_times_of_the_recorded_training_sample(reference_dir):
    """The recorded times are rounded to float32, which put some samples one source frame later."""
    recorded = json.loads((reference_dir / "train_sample.json").read_text())["plain"]["frame_pts"]
    frames = list(iter_frames(reference_dir / "clip.mp4", start_s=1.4, end_s=12.45))
    ends_s = [frame.end_s for frame in frames]
    assert all(frame.pts_s < frame.time_s <= frame.end_s for frame in frames)
    assert len(ends_s) == len(recorded) - 1  # an odd count repeats its last
    for ours, theirs in zip(ends_s, recorded):
        assert ours == pytest.approx(theirs, abs=1e-6) or ours == pytest.approx(theirs - 1 / 30, abs=1e-6)
