"""Files that are not videos give one clear error; damaged videos are read as far as possible, with a warning."""

import functools
import sys
import warnings
from fractions import Fraction

import av
import chosen
import numpy as np
import pytest
from media import damage_time_table, number_of, write_audio, write_tone, write_video

from livecc_hf.modeling import video_sampling
from livecc_hf.rendering.overlay import burn_captions
from livecc_hf.video import reader
from livecc_hf.video.reader import (
    VideoReadError,
    VideoReadWarning,
    iter_frames,
    measure_duration,
    probe_video,
)
from livecc_hf.video.times import SteadyClock

numbers, read = (functools.partial(function, reader=reader) for function in (chosen.numbers, chosen.read))
# Damage on a sound file fails a test; tests of damaged files catch theirs.
pytestmark = pytest.mark.filterwarnings("error::livecc_hf.modeling.video_file.VideoReadWarning")


def noise(index):
    """Return a noise picture, which compresses badly."""
    return np.random.default_rng(index).integers(0, 256, (128, 192, 3), np.uint8)


def interleave(path, out, hole_s=(0, 0)):
    """Copy a file with its packets in order of time, except those of a stretch."""
    with av.open(str(path)) as source, av.open(str(out), "w") as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.size]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            if not hole_s[0] <= packet.dts * packet.time_base < hole_s[1]:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return out


class TestErrors:
    @pytest.mark.parametrize("read_it", [probe_video, lambda p: list(iter_frames(p))], ids=["probe", "frames"])
    def test_of_files_that_are_not_videos(self, tmp_path, read_it):
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
            ("rtsp://me:geheim@host/a", r"^an address \(rtsp://\.\.\.\) cannot be read here: expected a video file$"),
            (text, "is a text file, not a video"),
            (renamed, "is not a video file that can be read"),
            (empty, r"is empty \(0 bytes\): expected a video file"),
            (subtitles, r"has no video stream to watch \(it holds: subtitle\)"),
            (write_audio(tmp_path / "tone.m4a"), r"has no video stream to watch \(it holds: audio\)"),
        ):
            with pytest.raises(VideoReadError, match=message):
                read_it(path)

    def test_a_cover_picture_is_not_a_video(self, tmp_path):
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

    def test_of_arguments_are_raised_at_the_call(self, tmp_path):
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


both_readers = pytest.mark.parametrize("reader", [reader, video_sampling], ids=["package", "model"])


class TestDamage:
    @pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
    @pytest.mark.parametrize("audio_s", [None, 10])
    @both_readers
    def test_a_cut_off_file_gives_its_frames(self, tmp_path, suffix, audio_s, reader):
        options = {"movflags": "faststart"} if suffix == ".mp4" else {}
        path = write_video(
            tmp_path / f"whole{suffix}", n_frames=100, audio_s=audio_s, muxer_options=options, codec_options={"g": "5"}
        )
        whole = path.read_bytes()
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole[: len(whole) * 6 // 10])
        said = r"[1-9]\.\d s of video were decoded, .*cut short .*ends at 10\.\d s"
        is_said = reader is not video_sampling  # which only counts damaged spots
        with pytest.warns(VideoReadWarning, match=said) if is_said else warnings.catch_warnings():
            if not is_said:
                warnings.simplefilter("ignore", VideoReadWarning)
            sampled = chosen.numbers(cut, reader=reader)
        assert 4 <= len(sampled) < 18
        # The last decoded frame may be concealed damage.
        assert sampled[:-2] == numbers(path)[: len(sampled) - 2]

    def test_a_range_before_the_cut_gives_no_warning(self, tmp_path):
        path = write_video(tmp_path / "whole.mkv", n_frames=100, codec_options={"g": "5"})
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        assert numbers(cut, end_s=2) == [0, 4, 9, 14]

    @both_readers
    def test_holes_are_skipped(self, tmp_path, reader):
        path = write_video(tmp_path / "video.ts", n_frames=100, codec_options={"g": "1"})
        data = path.read_bytes()
        middle = len(data) // 188 // 2 * 188
        path.write_bytes(data[:middle] + data[middle + 20 * 188 :])
        with pytest.warns(
            VideoReadWarning, match=r"10\.0 s of video were decoded.*damaged spot\(s\) were skipped or patched"
        ):
            sampled = chosen.read(path, reader=reader)
        assert sampled[:6] == [(0, 0.0), (4, 0.5), (9, 1.0), (14, 1.5), (19, 2.0), (24, 2.5)]
        assert sampled[-1] == (94, 9.5)

    def test_a_jump_of_the_time_table_is_removed(self, tmp_path):
        """One entry of the table says seven hours, which delays all later frames."""
        times = [(i + 0.1 * (i % 2)) / 10 for i in range(200)]
        options = {
            "times_s": times,
            "audio_s": 20,
            "codec_options": {"g": "30"},
            "muxer_options": {"use_editlist": "0"},
        }
        whole = write_video(tmp_path / "whole.mp4", **options)
        path = damage_time_table(write_video(tmp_path / "a.mp4", **options), 100)
        with pytest.warns(VideoReadWarning, match=r"1 jump\(s\) of its times by more than 3600 s were removed"):
            sampled = read(path)
        assert [time_s for _, time_s in sampled] == [n / 2 for n in range(len(sampled))]
        assert [number for number, _ in sampled][:39] == pytest.approx(numbers(whole)[:39], abs=1)
        assert measure_duration(path) == pytest.approx(20, abs=0.05)
        with pytest.warns(VideoReadWarning):
            assert read(path, start_s=15) == sampled[30:]
        with pytest.raises(VideoReadError, match="start_s=30 lies past the end"), pytest.warns(VideoReadWarning):
            read(path, start_s=30)
        with pytest.warns(VideoReadWarning):
            assert probe_video(burn_captions(path, [], tmp_path / "out.mp4")).duration_s == pytest.approx(20, abs=0.1)
        # The limit is an option.
        with pytest.warns(VideoReadWarning):
            early = [next(iter_frames(path, 12, max_gap_s=limit_s)).frame for limit_s in (3600, 60)]
        assert number_of(early[0]) == number_of(early[1])
        assert number_of(next(iter_frames(path, 12, max_gap_s=10**6)).frame) == 100

    def test_a_jump_past_the_edit_list_ends_the_file(self, tmp_path):
        """FFmpeg drops frames past the length in the header."""
        times = [(i + 0.1 * (i % 2)) / 10 for i in range(100)]
        path = write_video(tmp_path / "a.mp4", times_s=times, audio_s=10)
        whole = numbers(path)
        damage_time_table(path, 50)
        with pytest.warns(VideoReadWarning, match="its times jump, and later parts could not be read"):
            assert numbers(path) == whole[:11]

    def test_a_still_picture_over_sound_is_not_a_jump(self, tmp_path):
        path = write_video(tmp_path / "slides.mkv", times_s=[0, 1, 101], fps=1, audio_s=102, codec="mjpeg",
                           pixel_format="yuvj420p")  # fmt: skip
        interleaved = interleave(path, tmp_path / "interleaved.mkv")
        assert numbers(interleaved, start_s=99, max_gap_s=20) == [1, 1, 1, 1, 1]

    def test_single_damaged_times_are_corrected(self):
        clock = SteadyClock(Fraction(1, 10), max_gap_s=60)
        said = [0, 1, 2, 900, 4, 5, -300, 7, 8, None, 10]
        settled = [clock.settle(None if tick is None else Fraction(tick, 10)) for tick in said]
        assert [float(time * 10) for time in settled] == pytest.approx(range(11))

    @pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
    @pytest.mark.parametrize("suffix", [".mp4", ".ts", ".avi", ".mkv"])
    def test_damaged_frames_are_reported(self, tmp_path, suffix, codec):
        path = write_video(tmp_path / f"v{suffix}", n_frames=60, codec=codec, clock=10, size_px=(192, 128), paint=noise,
                           codec_options={"g": "20"})  # fmt: skip
        whole = [frame.frame for frame in iter_frames(path, fps=10)]
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 600] = bytes(value ^ 0x5A for value in data[middle : middle + 600])
        path.write_bytes(data)
        with pytest.warns(VideoReadWarning, match=r"damaged spot\(s\) were skipped or patched"):
            harmed = [frame.frame for frame in iter_frames(path, fps=10)]
        assert any(before.ne(after).any() for before, after in zip(whole, harmed, strict=False))

    def test_a_reader_that_stops_early_says_what_was_harmed(self, tmp_path):
        path = write_video(tmp_path / "v.ts", n_frames=60, codec_options={"g": "1"})
        data = path.read_bytes()
        path.write_bytes(data[: 10 * 188] + data[20 * 188 :])
        frames = iter_frames(path)
        next(frames), next(frames)
        with pytest.warns(VideoReadWarning, match="damaged spot"):
            frames.close()

    def test_a_hole_in_picture_and_sound_is_said(self, tmp_path):
        options = {"n_frames": 200, "audio_s": 20, "codec_options": {"g": "10"}}
        path = interleave(write_video(tmp_path / "a.mkv", **options), tmp_path / "hole.mkv", hole_s=(8, 11))
        with pytest.warns(VideoReadWarning, match=r"[23]\.\d s in it hold neither picture nor sound"):
            sampled = numbers(path)
        assert sampled[:16] == [0, *range(4, 79, 5)]
        assert sampled[-1] == 194

    def test_nothing_decodable_is_an_error(self, tmp_path):
        path = write_video(tmp_path / "video.mp4", n_frames=20, muxer_options={"movflags": "faststart"})
        data = bytearray(path.read_bytes())
        start = data.index(b"mdat") + 4
        data[start:] = b"\xff" * (len(data) - start)
        path.write_bytes(data)
        for read_it in (probe_video, lambda p: list(iter_frames(p))):
            with pytest.raises(VideoReadError, match="no frame of it can be decoded"):
                read_it(path)
