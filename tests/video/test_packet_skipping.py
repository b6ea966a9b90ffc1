"""Packets that no chosen frame needs are not decoded, and nothing else changes."""

from fractions import Fraction

import numpy as np
import pytest
from media import write_video

from livecc_hf.acceleration import video_packets
from livecc_hf.acceleration.video_packets import PacketFilter, PictureKind
from livecc_hf.modeling import video_sampling
from livecc_hf.video import reader
from livecc_hf.video.reader import VideoReadWarning
from livecc_hf.video.source import RepairedSource

# Damage on a sound file fails a test; tests of damaged files catch theirs.
pytestmark = pytest.mark.filterwarnings("error::livecc_hf.modeling.video_file.VideoReadWarning")


@pytest.fixture
def skipping(monkeypatch):
    """Reads a file as the package does, and as a model repository decodes all of it.

    It is a function that returns what both give, and the packets skipped.

    Each is a list of (pixels, sample, presentation and end time) of each frame.
    """
    n_skipped, skip = 0, PacketFilter._skip

    def count(self, entry):
        nonlocal n_skipped
        n_skipped += 1
        skip(self, entry)

    monkeypatch.setattr(PacketFilter, "_skip", count)

    def read_both(path, *args, **options):
        nonlocal n_skipped
        n_skipped = 0
        given = []
        for module in (reader, video_sampling):
            frames = module.iter_frames(path, *args, **options)
            given.append([(f.frame.numpy().tobytes(), f.time_s, f.pts_s, f.end_s) for f in frames])
        return *given, n_skipped

    return read_both


GRAIN = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def noisy(index):
    """Two noise pictures that move apart: each frame differs from the next one everywhere."""
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
            assert n_skipped < 10  # at most the frames between the last sample and a key frame
        usual, all_decoded, _ = skipping(path, start_s=1.23, end_s=5.6, fps=7)
        assert usual == all_decoded

    @pytest.mark.parametrize(
        ("codec", "suffix", "skips"),
        [("mjpeg", ".mov", True), ("libx265", ".mp4", False), ("mpeg4", ".avi", False), ("libvpx-vp9", ".webm", False)],
    )
    def test_of_other_codecs_only_if_exact(self, tmp_path, skipping, codec, suffix, skips):
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
            n_more = len(usual) - len(all_decoded)  # this container has no duration of the last frame
            assert usual[: len(all_decoded)] == all_decoded and n_more in ((0, 1) if suffix == ".ts" else (0,))
            assert n_skipped > 20

    @pytest.mark.parametrize("frame_number", [30, 90, 140])
    def test_that_failed_reads_again_from_there(self, tmp_path, monkeypatch, skipping, frame_number):
        path = write_video(
            tmp_path / "video.mp4", n_frames=400, fps=30, paint=noisy, codec_options={"g": "10", "bf": "0"}
        )
        n_frames, starts = 0, []
        account, read_file = PacketFilter.skipped_before, RepairedSource.open_before

        def fail_once(self, frame):
            nonlocal n_frames
            n_frames += 1
            if n_frames == frame_number:
                self.give_up()
            return account(self, frame)

        def note_start(path, start, **options):
            starts.append(start)
            return read_file(path, start, **options)

        monkeypatch.setattr(PacketFilter, "skipped_before", fail_once)
        monkeypatch.setattr(RepairedSource, "open_before", note_start)
        usual, all_decoded, _ = skipping(path)
        assert usual == all_decoded
        assert len(starts) == 2 and starts[0] is None
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
        """x264, 1080p, High profile, progressive and interlaced; and truncated ones."""
        progressive = bytes.fromhex("67640028acd940780227e5c05a808080a0000003002000000781e30632c0")
        assert video_packets._is_plain_progressive(progressive)
        assert not video_packets._is_plain_progressive(progressive[:6])
        assert not video_packets._is_plain_progressive(b"")

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
        assert video_packets._h264_kind(annex_b, 0, b"\x67\x42") is kind
        assert video_packets._h264_kind(prefixed, 4, b"\x67\x42") is kind
        assert video_packets._h264_kind(prefixed[:-1], 4, b"\x67\x42") is PictureKind.UNKNOWN
