"""The sound for speech recognition keeps its times across gaps, changes of format and damage."""

import struct
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from speech import RATE_HZ, write_sound

from livecc_hf.modeling.video_file import VideoReadWarning
from livecc_hf.production.backends.speech_audio import KEPT_SILENCE_S, NoAudioError, decode_speech

pytestmark = pytest.mark.filterwarnings("error::livecc_hf.modeling.video_file.VideoReadWarning")


def beeps(seconds, rate_hz=RATE_HZ):
    """Return a beep of 0.1 s at each whole second, float32 of shape (samples,)."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.where(time_s % 1 < 0.1, 0.6 * np.sin(2 * np.pi * 1000 * time_s), 0).astype(np.float32)


def add_sound(container, start_s, seconds, codec="aac", layout="mono", rate_hz=RATE_HZ, stream=None):
    """Write beeps into an open container."""
    stream = stream or container.add_stream(codec, rate=rate_hz, layout=layout)
    form = stream.codec_context.format.name
    wave = beeps(seconds, rate_hz)
    wave = wave if form.startswith("flt") else (wave * 32767).astype(np.int16)
    n_channels = stream.codec_context.layout.nb_channels
    for begin in range(0, len(wave) - 1023, 1024):
        part = wave[begin : begin + 1024]
        planes = np.stack([part] * n_channels) if form.endswith("p") else np.repeat(part, n_channels)[None]
        frame = av.AudioFrame.from_ndarray(planes, format=form, layout=layout)
        frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
        frame.pts = round(start_s * rate_hz) + begin
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    return stream


def write_beeps(path, start_s=0.0, seconds=6.0, **options):
    with av.open(str(path), "w") as container:
        add_sound(container, start_s, seconds, **options)
    return path


def heard_s(audio):
    """Return the player's time of each beep, by `SpeechAudio.shown_s`."""
    loud = np.flatnonzero(np.abs(audio.samples) > 0.2)
    begins = loud[np.insert(np.diff(loud) > RATE_HZ // 4, 0, True)]
    return [audio.shown_s(index / RATE_HZ) for index in begins]


def test_sound_after_a_change_of_format_keeps_its_time(tmp_path):
    parts = [
        write_beeps(tmp_path / "a.ts", 1.4, 6, layout="stereo"),
        write_beeps(tmp_path / "b.ts", 11.4, 6),
        write_beeps(tmp_path / "c.ts", 17.4, 3, rate_hz=48_000),
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    audio = decode_speech(joined)
    assert audio.damage == ()
    expected = [*range(6), *range(10, 16), *range(16, 19)]
    assert heard_s(audio) == pytest.approx(expected, abs=0.1)  # an AAC encoder begins 0.064 s early
    assert audio.start_s == audio.clock_start_s == pytest.approx(1.4, abs=0.07)


def test_a_player_shows_the_first_sound_of_a_broadcast_at_0(tmp_path):
    audio = decode_speech(write_beeps(tmp_path / "a.ts", 10_000, 3))
    assert audio.clock_start_s == audio.start_s == pytest.approx(10_000, abs=0.07)
    assert [audio.shown_s(time_s) for time_s in (0, 1.5)] == [0, 1.5]


def test_times_do_not_drift_over_many_gaps(tmp_path):
    """Even if no gap is a whole number of samples."""
    sound = (beeps(60) * 20_000).astype(np.int16)
    gaps = tuple((RATE_HZ * n, 1.0007) for n in range(1, 60))
    audio = decode_speech(write_sound(tmp_path / "a.mkv", sound, gaps=gaps))
    assert heard_s(audio) == pytest.approx([2.0007 * n for n in range(60)], abs=0.002)


def write_stretches(path, starts_s):
    """Write a Matroska file with a second of sound, which begins with a beep, at each of these times."""
    beep = (beeps(1) * 20_000).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for start_s in starts_s:
            for begin in range(0, RATE_HZ, 800):
                frame = av.AudioFrame.from_ndarray(beep[None, begin : begin + 800], format="s16", layout="mono")
                frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
                frame.pts = round(start_s * RATE_HZ) + begin
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_long_silence_is_not_held_in_memory(tmp_path):
    audio = decode_speech(write_stretches(tmp_path / "a.mkv", (0, 1201, 1502)))
    assert (audio.damage, len(audio.samples)) == ((), (3 + 2 * KEPT_SILENCE_S) * RATE_HZ)
    assert audio.cuts == ((61 * RATE_HZ, 1140.0), (122 * RATE_HZ, 240.0))
    assert heard_s(audio) == pytest.approx([0, 1201, 1502], abs=0.001)


def test_a_jump_too_far_ahead_is_damage_and_is_said(tmp_path):
    path = write_stretches(tmp_path / "a.mkv", (0, 7201, 7202, 7205))
    with pytest.warns(
        VideoReadWarning, match=r"a\.mkv: its sound is damaged: 1 jump\(s\) of its times by more than 3600 s"
    ):
        audio = decode_speech(path)
    assert heard_s(audio) == pytest.approx([0, 1, 2, 5], abs=0.001)  # a gap after it counts
    audio = decode_speech(path, max_silence_s=8000)
    assert heard_s(audio) == pytest.approx([0, 7201, 7202, 7205], abs=0.001)
    assert len(audio.samples) < 70 * RATE_HZ


@pytest.mark.parametrize(("tag", "wrong_ms"), [(20, 0), (20, 700_000), (20, 2_000_000_000), (0, 2_000_000_000)])
def test_one_wrong_time_moves_nothing(tmp_path, tag, wrong_ms):
    path = write_beeps(tmp_path / "a.flv", 5, 6)
    whole = decode_speech(path)
    data = bytearray(path.read_bytes())
    at, n_sounds = 13, 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if data[at] == 8 and data[at + 12] == 1:  # a packet of AAC
            if n_sounds == tag:
                data[at + 4 : at + 8] = struct.pack(">I", wrong_ms)[1:] + struct.pack(">I", wrong_ms)[:1]
            n_sounds += 1
        at += 15 + size
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        audio = decode_speech(path)
    assert heard_s(audio) == pytest.approx(heard_s(whole), abs=0.1)
    assert any("its sound is damaged: 1 " in str(told.message) for told in caught)


def test_a_recording_behind_another_is_heard_after_it(tmp_path):
    """As with its pictures: both have the same clock, which jumps back where the files were joined."""
    path = tmp_path / "twice.ts"
    parts = [write_beeps(tmp_path / name, 1.4, seconds) for name, seconds in (("a.ts", 4), ("b.ts", 6))]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.warns(VideoReadWarning, match=r"its clock restarts 1 time\(s\), as in concatenated recordings"):
        audio = decode_speech(path)
    # An AAC encoder puts 0.064 s ahead of the sound and fills its last frame.
    assert heard_s(audio) == pytest.approx(range(10), abs=0.2)


def test_sound_that_overlaps_what_came_before_is_skipped_and_said(tmp_path):
    path = tmp_path / "overlap.ts"
    parts = [write_beeps(tmp_path / name, start_s, 4) for name, start_s in (("a.ts", 1.4), ("b.ts", 4.9))]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.warns(VideoReadWarning, match=r"0\.[56] s with a timestamp in the past were skipped"):
        audio = decode_speech(path)
    assert heard_s(audio) == pytest.approx([0, 1, 2, 3, 4.5, 5.5, 6.5], abs=0.1)


def test_the_sound_is_that_which_a_player_chooses(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono") for _ in range(2)]
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for stream, start_s in zip(streams, (0, 2), strict=True):
            add_sound(container, start_s, 4, stream=stream)
    assert decode_speech(path).start_s == 2


def test_sound_of_an_unknown_format_is_named(tmp_path):
    path = write_beeps(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz"))
    with pytest.raises(ValueError, match=r"a\.mp4 has sound in a format without a decoder") as error:
        decode_speech(path)
    assert not isinstance(error.value, NoAudioError)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv", ".flv", ".ogg", ".avi"])
def test_damage_never_raises_anything_else(tmp_path, suffix):
    codec = {".ogg": "flac", ".avi": "pcm_s16le"}.get(suffix, "aac")
    whole = write_beeps(tmp_path / f"a{suffix}", codec=codec).read_bytes()
    random = np.random.default_rng(7)
    path = tmp_path / f"b{suffix}"
    for _ in range(30):
        data = np.frombuffer(whole, np.uint8).copy()
        at = random.integers(0, len(data), random.integers(1, 60))
        data[at] = random.integers(0, 256, len(at))
        if random.random() < 0.3:
            data = np.roll(data, int(random.integers(1, 400)))
        path.write_bytes(data.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                audio = decode_speech(path)
            except ValueError as error:
                assert "b." in str(error)  # names the file
            else:
                assert len(audio.samples) < 200 * RATE_HZ
                assert np.isfinite(audio.start_s)
