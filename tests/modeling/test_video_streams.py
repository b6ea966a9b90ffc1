"""The choice of video and audio streams, unusual file names, and files with irregular times."""

from fractions import Fraction

import av
import chosen
import pytest
from media import numbered_picture, write_tone, write_video

from livecc_hf.captions.writers import Caption
from livecc_hf.modeling import video_sampling
from livecc_hf.modeling.video_file import NoDecoderError, VideoReadWarning, choose_video, open_video
from livecc_hf.modeling.video_sampling import iter_frames
from livecc_hf.rendering.overlay import burn_captions
from livecc_hf.video import reader
from livecc_hf.video.reader import probe_video
from livecc_hf.video.sound import choose_sound

numbers = chosen.numbers
both_readers = pytest.mark.parametrize("by", [reader, video_sampling], ids=["package", "model"])
pytestmark = pytest.mark.filterwarnings("error::livecc_hf.modeling.video_file.VideoReadWarning")

DEFAULT = av.stream.Disposition.default
DESCRIPTIONS = av.stream.Disposition.visual_impaired


def write_tracks(path, videos, sounds=()):
    """Write a file of several tracks: (codec, size, frames, disposition) of videos, dispositions of sounds."""
    with av.open(str(path), "w") as container:
        streams = []
        for codec, size_px, n_frames, disposition in videos:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = size_px
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            streams.append((stream, n_frames))
        tones = [container.add_stream("aac", rate=16_000) for _ in sounds]
        for tone, disposition in zip(tones, sounds, strict=True):
            tone.disposition = disposition
        for stream, n_frames in streams:
            for index in range(n_frames):
                picture = numbered_picture(index, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        for tone in tones:
            write_tone(container, tone, 1.0)
    return path


class TestVideo:
    @pytest.mark.parametrize(
        ("suffix", "videos"),
        [
            (".mov", [("mjpeg", (64, 48), 1, 0), ("libx264", (96, 64), 30, DEFAULT)]),
            (".mov", [("mjpeg", (192, 128), 1, DEFAULT), ("libx264", (96, 64), 30, 0)]),
            (".mkv", [("libx264", (64, 48), 30, 0), ("libx264", (96, 64), 30, DEFAULT)]),
            (".mkv", [("libx264", (192, 128), 30, 0), ("libx264", (96, 64), 30, DEFAULT)]),
            (".ts", [("libx264", (64, 48), 30, 0), ("libx264", (96, 64), 30, 0)]),
        ],
        ids=["thumbnail first", "thumbnail as default", "second is default", "smaller is default", "larger"],
    )
    def test_the_video_stream_is_the_one_that_a_player_shows(self, tmp_path, suffix, videos):
        path = write_tracks(tmp_path / f"tracks{suffix}", videos)
        info = probe_video(path)
        assert (info.width, info.height, info.codec) == (96, 64, "h264")
        assert numbers(path) == [0, 4, 9, 14, 19, 24]

    def test_an_unknown_codec_raises_no_decoder_error(self, tmp_path):
        path = write_video(tmp_path / "a.mp4")
        path.write_bytes(path.read_bytes().replace(b"avc1", b"qqqq"))
        for read_it in (probe_video, lambda path: list(iter_frames(path)), lambda p: burn_captions(p, [], "o.mp4")):
            with pytest.raises(NoDecoderError, match="format that cannot be decoded here, or its description is damag"):
                read_it(path)


class TestSound:
    @pytest.mark.parametrize(("sounds", "chosen"), [((0, DEFAULT), 2), ((DESCRIPTIONS, 0), 2), ((0, 0), 1)])
    def test_the_audio_stream_is_the_one_that_a_player_plays(self, tmp_path, sounds, chosen):
        path = write_tracks(tmp_path / "tracks.mkv", [("libx264", (96, 64), 5, DEFAULT)], sounds)
        with open_video(path) as container:
            assert choose_sound(container, choose_video(container)).index == chosen

    def test_a_file_without_sound_has_no_audio_stream(self, tmp_path):
        with open_video(write_video(tmp_path / "a.mp4", n_frames=2)) as container:
            assert choose_sound(container, choose_video(container)) is None


@pytest.mark.parametrize("name", ["10:30 talk.mp4", "http:x.mp4", "concat:a|b.mp4", "pipe:0.mp4", "50%d off.mp4"])
def test_a_file_name_is_never_read_as_a_url(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", audio_s=1).rename(tmp_path / name)
    assert numbers(name) == [0, 4, 9, 14, 19, 24]
    assert probe_video(name).width == 96
    out = burn_captions(name, [Caption(0, 1, "words")], name.replace(".mp4", " copy.mp4"))
    assert out.is_file()
    assert len(list(iter_frames(out))) == 6


class TestTimes:
    @pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
    @both_readers
    def test_avi_with_frames_stored_out_of_order(self, tmp_path, codec, by):
        """AVI stores decoding times, not presentation times."""
        path = write_video(
            tmp_path / "b.avi",
            n_frames=300,
            codec=codec,
            clock=10,
            codec_options={"bf": "2", "g": "50"} | ({"preset": "medium"} if codec == "libx264" else {}),
        )
        shown = zip(by.iter_frames(path), numbers(path, reader=by), strict=True)
        whole = [(round(f.pts_s * 10), number) for f, number in shown]
        assert [number for _, number in whole][:5] == [0, 4, 9, 14, 19]
        delay = whole[0][0]
        assert all(tick == number + delay for tick, number in whole)
        start_s = 20 + delay / 10
        assert numbers(path, start_s=start_s, reader=by) == [number for tick, number in whole if number >= 199]

    def test_concatenated_recordings_follow_each_other(self, tmp_path):
        """Times that occur twice are never used for seeks, so frames do not depend on where reading starts."""
        parts = [
            write_video(tmp_path / f"{first}.ts", n_frames=160, codec_options={"g": "20"},
                        paint=lambda index, first=first: numbered_picture(first + index, 96, 64))
            for first in (0, 1000)
        ]  # fmt: skip
        path = tmp_path / "both.ts"
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
        expected = [0, *range(4, 160, 5), *range(1004, 1159, 5)]
        with pytest.warns(VideoReadWarning, match="its clock restarts 1 time"):
            shown = zip(reader.iter_frames(path), numbers(path, reader=reader), strict=True)
            whole = [(f.time_s, number) for f, number in shown]
        first_s = whole[0][0]
        assert [number for _, number in whole] == expected
        assert [time_s for time_s, _ in whole] == pytest.approx([first_s + n / 2 for n in range(64)])
        for place in (20, 24, 40):
            with pytest.warns(VideoReadWarning):
                assert numbers(path, start_s=whole[place][0], reader=reader) == expected[place:]
        with pytest.warns(VideoReadWarning, match="160 damaged spot"):  # does not read past a restart
            assert numbers(path) == expected[:32]
        with pytest.warns(VideoReadWarning):
            out = burn_captions(path, [], tmp_path / "out.mp4")
        assert numbers(out) == pytest.approx(expected, abs=1)
