"""Copies with burned-in captions: the places of words; times, size and sound are kept."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from media import number_of, write_video
from PIL import ImageFont

from livecc_hf.captions.writers import Caption
from livecc_hf.rendering.caption_painter import CaptionPainter, CaptionStyle, wrap
from livecc_hf.rendering.overlay import OverlayWriter, burn_captions
from livecc_hf.video.reader import VideoReadError, iter_frames, probe_video

GRAY = np.full((64, 96, 3), 128, np.uint8)


def gray(width, height):
    return lambda index: np.full((height, width, 3), 128, np.uint8)


def frames_of(path):
    """(time it appears, picture) of every frame, in order."""
    with av.open(str(path)) as container:
        return [(frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def has_words(picture):
    """Whether there is white writing on the lower half of a gray picture."""
    return bool((picture[picture.shape[0] // 2 :] > 220).any())


def audio_packets(path):
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.size]


class TestCopy:
    def test_shows_words_in_their_time(self, tmp_path):
        video = write_video(tmp_path / "in.mp4", n_frames=80, paint=gray(96, 64))
        captions = [Caption(1, 2, "one"), Caption(2, 3, ""), Caption(4, 5, "two"), Caption(5, 6, "three")]
        out = burn_captions(video, captions, tmp_path / "out.mp4")
        shown = [has_words(picture) for _, picture in frames_of(out)]
        # Words stay 1.5 s longer than their turn unless others follow.
        assert shown == [10 <= n < 35 or 40 <= n < 75 for n in range(80)]

    def test_keeps_the_times_of_frames_and_the_sound(self, tmp_path):
        times = [Fraction(t, 10) for t in (0, 1, 2, 7, 8, 20, 21, 22, 30)]
        video = write_video(tmp_path / "in.mkv", times_s=times, audio_s=3.2)
        for suffix in (".mp4", ".mov", ".mkv"):
            out = burn_captions(video, [Caption(0, 3, "words")], tmp_path / f"out{suffix}")
            frames = frames_of(out)
            assert [float(time) for time, _ in frames] == pytest.approx([float(t) for t in times], abs=1e-3)
            before, after = audio_packets(video), audio_packets(out)
            assert [data for _, data in after] == [data for _, data in before]
            assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=2e-3)
            if suffix != ".mkv":  # its header includes the sound in the length
                assert probe_video(out).duration_s == pytest.approx(3.1, abs=1e-3)

    def test_of_a_range_starts_at_zero(self, tmp_path):
        video = write_video(tmp_path / "in.mp4", n_frames=60, size_px=(360, 240), audio_s=6, codec_options={"g": "25"})
        out = burn_captions(video, [Caption(2, 3, "words")], tmp_path / "out.mp4", start_s=2.05, end_s=4)
        frames = frames_of(out)
        assert [number_of(picture.transpose(2, 0, 1)[:, :100]) for _, picture in frames] == list(range(20, 40))
        times = [float(time) for time, _ in frames]
        assert times == pytest.approx([0, *(0.05 + n / 10 for n in range(19))], abs=1e-3)
        sound = [time for time, _ in audio_packets(out)]
        assert 0 <= sound[0] < 0.1
        assert sound[-1] < 1.95

    def test_of_a_late_video_keeps_its_place(self, tmp_path):
        video = write_video(tmp_path / "in.mp4", times_s=[5 + Fraction(n, 10) for n in range(20)], audio_s=7)
        out = burn_captions(video, [], tmp_path / "out.mp4")
        assert probe_video(out).first_pts_s == pytest.approx(5, abs=1e-3)

    @pytest.mark.parametrize(
        ("size_px", "rotation_deg", "copied_size"),
        [
            ((320, 240), 0, (320, 240)),
            ((480, 320), 90, (320, 480)),
            ((84, 84), 0, (336, 336)),
            ((97, 63), 0, (388, 252)),
            ((321, 241), 0, (320, 240)),
        ],
    )
    def test_is_upright_even_and_large_enough(self, tmp_path, size_px, rotation_deg, copied_size):
        codec = {"codec": "libx264", "pixel_format": "yuv420p"}
        if size_px[0] % 2:
            codec = {"codec": "ffv1", "pixel_format": "bgr0"}
        video = write_video(
            tmp_path / "in.mkv", n_frames=3, size_px=size_px, rotation_deg=rotation_deg, paint=gray(*size_px), **codec
        )
        out = burn_captions(video, [Caption(0, 1, "words")], tmp_path / "out.mp4")
        info = probe_video(out)
        assert (info.width, info.height) == copied_size
        assert (info.rotation_deg, info.codec) == (0, "h264")
        assert has_words(frames_of(out)[0][1])

    @pytest.mark.parametrize(
        ("aspect", "rotation_deg", "copied_size"),
        [("64/45", 0, (512, 288)), ("64/45", 90, (288, 512)), ("3/4", 0, (360, 384)), ("255/1", 0, (360, 288))],
    )
    def test_is_as_wide_as_players_show_it(self, tmp_path, aspect, rotation_deg, copied_size):
        video = write_video(
            tmp_path / "pal.mp4",
            n_frames=3,
            size_px=(360, 288),
            pixel_aspect=Fraction(aspect),
            rotation_deg=rotation_deg,
        )
        out = burn_captions(video, [Caption(0, 1, "words")], tmp_path / "out.mp4")
        info = probe_video(out)
        assert (info.width, info.height) == copied_size
        with av.open(str(out)) as container:
            assert container.streams.video[0].sample_aspect_ratio in (None, 1)

    def test_keeps_colours(self, tmp_path):
        colours = np.zeros((64, 96, 3), np.uint8)
        colours[:, :32], colours[:, 32:64], colours[:, 64:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
        video = write_video(tmp_path / "in.mp4", n_frames=3, paint=lambda index: colours)
        out = burn_captions(video, [], tmp_path / "out.mp4")
        before, after = (next(iter_frames(path)).frame[:, 30, ::step].int() for path, step in ((video, 1), (out, 4)))
        assert (before - after)[:, [10, 48, 86]].abs().max() <= 8

    def test_ends_with_the_captions_when_interrupted(self, tmp_path):
        video = write_video(tmp_path / "in.mp4", n_frames=60, paint=gray(96, 64), audio_s=6)
        with pytest.raises(KeyboardInterrupt), OverlayWriter(video, tmp_path / "out.mp4") as writer:
            writer.write(Caption(0, 3, "words"))
            raise KeyboardInterrupt
        frames = frames_of(tmp_path / "out.mp4")
        assert len(frames) == 30
        assert has_words(frames[-1][1])

    def test_of_a_cut_off_file_ends_with_it(self, tmp_path):
        whole = write_video(tmp_path / "whole.mkv", n_frames=60, codec_options={"g": "5"})
        cut = tmp_path / "cut.mkv"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
        frames = frames_of(burn_captions(cut, [Caption(0, 6, "words")], tmp_path / "out.mp4"))
        assert 20 < len(frames) < 60

    def test_warns_if_the_container_does_not_support_the_sound(self, tmp_path):
        options = {"codec": "mpeg4", "clock": 10, "audio_s": 1, "audio_codec": "pcm_mulaw"}
        video = write_video(tmp_path / "in.avi", n_frames=5, **options)
        with pytest.warns(UserWarning, match=r"pcm_mulaw audio does not fit in this container and is left out"):
            out = burn_captions(video, [], tmp_path / "out.mp4")
        assert not probe_video(out).has_audio
        assert len(frames_of(out)) == 5


class TestErrors:
    def test_are_raised_before_anything_is_written(self, tmp_path):
        video = write_video(tmp_path / "in.mp4", n_frames=3)
        text = tmp_path / "notes.txt"
        text.write_text("not a video\n" * 50)
        before = video.read_bytes()
        for source, out, error, message in (
            (video, "out.webm", ValueError, r"out\.webm: expected a file name that ends in \.mp4, \.mov, \.mkv"),
            (video, "none/out.mp4", FileNotFoundError, r"no such folder: .*none"),
            (video, "in.mp4", ValueError, r"in\.mp4 is the video itself"),
            (text, "out.mp4", VideoReadError, r"notes\.txt is a text file, not a video"),
            (tmp_path / "none.mp4", "out.mp4", FileNotFoundError, r"no such file: .*none\.mp4"),
        ):
            with pytest.raises(error, match=message):
                OverlayWriter(source, tmp_path / out)
            assert not (tmp_path / "out.mp4").exists()
        assert video.read_bytes() == before

    @pytest.mark.parametrize(
        ("span", "message"),
        [
            ({"start_s": 0.2, "end_s": 0.1}, r"end_s=0\.1 is not after start_s=0\.2: give a later end"),
            ({"end_s": 0}, r"end_s=0: the first frame of .*in\.mp4 is at 0 s"),
            ({"start_s": 50}, r"start_s=50 lies past the end of .*in\.mp4, at 0\.30 s"),
        ],
    )
    def test_a_part_without_any_frame_is_named(self, span, message, tmp_path):
        video = write_video(tmp_path / "in.mp4", n_frames=3, fps=10)
        with pytest.raises(ValueError, match=message):
            burn_captions(video, [Caption(0, 1, "words")], tmp_path / "out.mp4", **span)
        assert not (tmp_path / "out.mp4").exists()

    def test_of_the_style(self, tmp_path):
        (tmp_path / "font.ttf").write_text("no font")
        with pytest.raises(ValueError, match=r"font .*font\.ttf cannot be used"):
            CaptionStyle(font=tmp_path / "font.ttf")
        with pytest.raises(ValueError, match=r"font_scale=9: expected a number from 0\.2 to 5"):
            CaptionStyle(font_scale=9)


class TestPainter:
    @pytest.mark.parametrize("size_px", [(320, 180), (336, 336), (1920, 1080), (720, 1280), (2, 2), (320, 20)])
    @pytest.mark.parametrize("n_words", [1, 12, 400])
    def test_stays_inside_the_lower_part(self, size_px, n_words):
        width, height = size_px
        picture = np.full((height, width, 3), 128, np.uint8)
        CaptionPainter(size_px).draw(picture, " ".join(["commentary"] * n_words))
        changed = torch.from_numpy((picture != 128).any(axis=(1, 2)))
        assert changed.any()
        if height >= 100:
            assert changed.nonzero().min() > height * 0.45
            white = (picture > 250).all(axis=2)
            assert white.any()
            assert not white[:, : round(width * 0.02)].any()
            assert not white[:, -round(width * 0.02) :].any()

    def test_empty_text_draws_nothing(self):
        picture = GRAY.copy()
        CaptionPainter((96, 64)).draw(picture, "  ")
        assert (picture == GRAY).all()

    def test_text_is_wrapped_between_words_and_within_long_ones(self):
        font = ImageFont.load_default(20)
        lines = wrap("a red ball enters from the left " + "x" * 60, font, 150)
        assert all(font.getlength(line) <= 150 for line in lines)
        assert "".join(lines).replace(" ", "") == "aredballentersfromtheleft" + "x" * 60
        assert lines[0].startswith("a red")
        assert wrap("", font, 150) == []
