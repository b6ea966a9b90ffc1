"""Speech recognition with real weights (Whisper tiny.en) on speech by espeak-ng whose words and times are known."""

import av
import numpy as np
import pytest
from real_weights import needs_whisper, whisper_folder
from speech import RATE_HZ, needs_espeak, speak, write_sound
from test_asr import videos

from livecc_hf.production.stages.asr.stage import Asr

pytestmark = [needs_espeak, needs_whisper]
SENTENCES = (
    "The red car overtakes the blue car on the last corner, and the crowd goes wild.",
    "She turns left at the bridge and waits for the other boat.",
)


@pytest.fixture(scope="module")
def stage():
    return Asr(model=whisper_folder(), device="cpu", cpu_threads=1, compute_type="int8", beam_size=1)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Two sentences with a second of silence between, and when each starts."""
    parts = [speak(text, tmp_path_factory.mktemp("speech")) for text in SENTENCES]
    gap = np.zeros(RATE_HZ, np.int16)
    starts_s = [0.0, (len(parts[0]) + len(gap)) / RATE_HZ]
    return np.concatenate([parts[0], gap, parts[1]]), starts_s


def plain(words) -> list[str]:
    return [word.strip(".,!?").lower() for word in words]


def word_error_rate(said: list[str], heard: list[str]) -> float:
    """Edits from what was said to what was heard, by words said."""
    row = np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):
        before, row = row, np.full(len(heard) + 1, i)
        for j, other in enumerate(heard, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (word != other))
    return row[-1] / len(said)


def test_sentences_come_back_in_their_time(stage, speech, tmp_path):
    """Sound that starts late and has a gap."""
    samples, (_, second_s) = speech
    gap_at = round((second_s - 0.5) * RATE_HZ) // 800 * 800
    path = write_sound(tmp_path / "late.mkv", samples, start_s=3.0, gaps=((gap_at, 2.0),))
    words = stage(videos(path)).kept["words"][0].as_py()
    said = plain(" ".join(SENTENCES).split())
    assert word_error_rate(said, plain(word["word"] for word in words)) <= 0.1
    firsts = [next(w for w in words if plain([w["word"]]) == [name]) for name in ("the", "she")]
    assert firsts[0]["start_s"] == pytest.approx(3.0, abs=0.3)
    assert firsts[1]["start_s"] == pytest.approx(3.0 + second_s + 2.0, abs=0.3)


def test_sound_of_48_khz_in_stereo_is_the_same_to_it(stage, speech, tmp_path):
    samples = speech[0]
    path = tmp_path / "stereo.mka"
    loud = np.repeat(np.stack([samples, samples]), 3, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(loud.T).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    words = stage(videos(path)).kept["words"][0].as_py()
    said = plain(" ".join(SENTENCES).split())
    assert word_error_rate(said, plain(word["word"] for word in words)) <= 0.1


def test_music_alone_is_no_speech(stage, tmp_path):
    t = np.arange(6 * RATE_HZ) / RATE_HZ
    chord = sum(np.sin(2 * np.pi * hz * t) for hz in (262, 330, 392)) * 4000
    result = stage(videos(write_sound(tmp_path / "music.mkv", chord.astype(np.int16))))
    assert result.dropped["reason"].to_pylist() == ["no_speech"]
