"""Files that are no video, or only part of one: one clear error, or what is there with a warning."""

import sys

import av
import pytest
from chosen import numbers, read
from media import write_audio, write_tone, write_video

from livecc_hf.modeling.video_reader_livecc import (
    VideoReadError,
    VideoReadWarning,
    iter_frames,
    probe_video,
)

# Damage on a sound file fails a test; tests of damaged files catch theirs.
pytestmark = pytest.mark.filterwarnings("error::livecc_hf.modeling.video_reader_livecc.VideoReadWarning")


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
            picture = av.VideoFrame(96, 64, "yuvj420p")
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

    def test_nothing_decodable_is_an_error(self, tmp_path):
        path = write_video(tmp_path / "video.mp4", n_frames=20, muxer_options={"movflags": "faststart"})
        data = bytearray(path.read_bytes())
        start = data.index(b"mdat") + 4
        data[start:] = b"\xff" * (len(data) - start)
        path.write_bytes(data)
        for read_it in (probe_video, lambda p: list(iter_frames(p))):
            with pytest.raises(VideoReadError, match="not one frame of it could be decoded"):
                read_it(path)
