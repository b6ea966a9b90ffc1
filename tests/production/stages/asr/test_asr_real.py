"""Speech recognition with real weights (Whisper tiny.en) on speech by espeak-ng whose words and times are known."""

import difflib
from typing import NamedTuple

import av
import numpy as np
import pytest
from models import KEEP_NONSENSE
from real_weights import needs_whisper, whisper_folder
from speech import RATE_HZ, needs_espeak, speak_timed, write_sound
from test_asr import videos

from livecc_hf.production.stages.asr.stage import Asr

pytestmark = [needs_espeak, needs_whisper]
OPTIONS = {"device": "cpu", "cpu_threads": 1, "compute_type": "int8", "beam_size": 1}
SENTENCES = (
    "The red car overtakes the blue car on the last corner, and the crowd goes wild.",
    "As we go around the corner you can see the old church on the right.",
    "Put the lid on, turn it a quarter to the right, and let it sit for ten minutes.",
    "The train leaves the station and slowly crosses the river.",
    "I think it is about a hundred years old.",
)


class Speech(NamedTuple):
    """Attributes:
    samples: int16, mono, 16 kHz.
    text: what is said.
    starts: `(seconds, word)` of the words whose start is known.
    """

    samples: np.ndarray
    text: str
    starts: list[tuple[float, str]]

    def shifted(self, by_s: float) -> "Speech":
        return self._replace(starts=[(start_s + by_s, word) for start_s, word in self.starts])

    def then(self, silence_s: float, other: "Speech") -> "Speech":
        """Return this, a silence, and another."""
        silence = np.zeros(round(silence_s * RATE_HZ), np.int16)
        samples = np.concatenate([self.samples, silence, other.samples])
        later = other.shifted((len(self.samples) + len(silence)) / RATE_HZ)
        return Speech(samples, f"{self.text} {other.text}", self.starts + later.starts)


@pytest.fixture(scope="module")
def stage():
    return Asr(model=whisper_folder(), **OPTIONS)


@pytest.fixture(scope="module")
def keeps_all(stage):
    """The same, without the rules against hallucinations, and with a low threshold for voices."""
    return Asr(model=stage.model, **OPTIONS, **KEEP_NONSENSE, vad_threshold=0.001)


def said(*sentences: str, words_per_min: int = 150) -> Speech:
    text = " ".join(sentences)
    samples, starts = speak_timed(text, words_per_min)
    return Speech(samples, text, starts)


def plain(words) -> list[str]:
    return [word.strip(".,!?").lower() for word in words]


def word_error_rate(spoken: list[str], heard: list[str]) -> float:
    """Return the word error rate."""
    row = np.arange(len(heard) + 1)
    for i, word in enumerate(spoken, 1):
        before, row = row, np.full(len(heard) + 1, i)
        for j, other in enumerate(heard, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (word != other))
    return row[-1] / len(spoken)


def start_errors_s(truth: list[tuple[float, str]], words: list[dict]) -> np.ndarray:
    """Return the absolute error of each recognised word's start, in seconds."""
    spoken, heard = plain(word for _, word in truth), plain(word["word"] for word in words)
    blocks = difflib.SequenceMatcher(None, spoken, heard, autojunk=False).get_matching_blocks()
    pairs = [(truth[a + i][0], words[b + i]["start_s"]) for a, b, size in blocks for i in range(size)]
    return np.array([found_s - start_s for start_s, found_s in pairs])


def check(speech: Speech, words: list[dict]) -> None:
    """Check that few words are wrong, and that the others start at the right time, the median within 0.3 s."""
    assert word_error_rate(plain(speech.text.split()), plain(word["word"] for word in words)) <= 0.1
    errors_s = np.abs(start_errors_s(speech.starts, words))
    assert len(errors_s) >= 0.8 * len(speech.text.split())
    assert np.median(errors_s) <= 0.3 and np.quantile(errors_s, 0.9) <= 0.5


def heard(stage: Asr, path) -> list[dict]:
    return stage(videos(path)).kept["words"][0].as_py()


def test_words_come_back_when_they_are_said_one_stretch_at_a_time_or_together(stage, tmp_path):
    """More than 30 s of speech, which are several stretches."""
    first, second = (said(*part, words_per_min=130) for part in (SENTENCES[:3], (*SENTENCES[3:], *SENTENCES[:2])))
    speech = first.then(2.0, second)
    assert len(first.samples) + len(second.samples) > 31 * RATE_HZ
    path = write_sound(tmp_path / "long.mkv", speech.samples)
    together = heard(stage, path)
    check(speech, together)
    alone = heard(Asr(model=stage.model, **OPTIONS, chunks_per_batch=1), path)
    assert [word["word"] for word in alone] == [word["word"] for word in together]
    for name in ("start_s", "end_s"):
        assert [word[name] for word in alone] == pytest.approx([word[name] for word in together], abs=0.05)


def test_sound_that_starts_late_and_has_a_gap_keeps_its_times(stage, tmp_path):
    first, second = said(SENTENCES[0]), said(SENTENCES[1])
    speech = first.then(1.0, second)
    gap_at = (len(first.samples) + RATE_HZ // 2) // 800 * 800
    path = write_sound(tmp_path / "late.mkv", speech.samples, start_s=3.0, gaps=((gap_at, 2.0),))
    check(first.then(3.0, second).shifted(3.0), heard(stage, path))


def test_a_long_silence_has_no_words(stage, tmp_path):
    first, second = said(SENTENCES[2]), said(SENTENCES[3])
    speech = first.then(120.0, second)
    result = stage(videos(write_sound(tmp_path / "silence.mkv", speech.samples)))
    words = result.kept["words"][0].as_py()
    check(speech, words)
    assert len(result.dropped) == 0
    silence = (len(first.samples) / RATE_HZ + 0.5, len(first.samples) / RATE_HZ + 119.5)
    assert not [word for word in words if word["end_s"] > silence[0] and word["start_s"] < silence[1]]


def test_sound_of_48_khz_in_stereo_is_the_same_to_it(stage, tmp_path):
    speech = said(*SENTENCES[:3])
    path = tmp_path / "stereo.mka"
    loud = np.repeat(np.stack([speech.samples, speech.samples]), 3, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(loud.T).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    check(speech, heard(stage, path))


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n_samples) * 1600


def chord(n_samples: int) -> np.ndarray:
    seconds = np.arange(n_samples) / RATE_HZ
    return sum(np.sin(2 * np.pi * hz * seconds) for hz in (262, 330, 392)) * 3300


def melody(n_samples: int) -> np.ndarray:
    """Return plucked notes, four a second."""
    notes_hz = np.random.default_rng(0).choice([262, 294, 330, 349, 392, 440], n_samples // 4000 + 1)
    fading = np.tile(np.exp(-np.arange(4000) / 2000), len(notes_hz))[:n_samples]
    return np.sin(2 * np.pi * np.cumsum(notes_hz.repeat(4000)[:n_samples]) / RATE_HZ) * 9800 * fading


@pytest.mark.parametrize("sound", [noise, chord, melody])
def test_music_and_noise_are_no_speech(stage, keeps_all, tmp_path, sound):
    """No voice is detected in either; and if it were, the rules remove what Whisper writes for them."""
    path = write_sound(tmp_path / "sound.mkv", sound(20 * RATE_HZ).astype(np.int16))
    assert stage(videos(path)).dropped["reason"].to_pylist() == ["no_speech"]
    assert len(heard(keeps_all, path)) > 0
    keen = Asr(model=stage.model, **OPTIONS, vad_threshold=0.001)
    result = keen(videos(path))
    assert len(result.kept) == 0 and result.dropped["reason"].to_pylist() == ["no_speech", "silent_stretch"]


def test_a_loop_is_taken_away(stage, keeps_all, tmp_path):
    """For a word said thirty times, this Whisper repeats the word as often as it can."""
    path = write_sound(tmp_path / "loop.mkv", said("no " * 30).samples)
    looped = heard(keeps_all, path)
    assert len(looped) > 60
    whole, part = stage(videos(path)).dropped.to_pylist()
    assert whole["reason"] == "no_speech" and part["reason"] == "repetitive" and part["value"] > 2.4
    assert part["detail"].startswith(f"{len(looped)} of {len(looped)} words; at ")


def test_what_is_said_four_times_stays(stage, tmp_path):
    speech = said("Go, go, go, go! What a shot that was, and the whole team runs to him.")
    words = heard(stage, write_sound(tmp_path / "go.mkv", speech.samples))
    assert word_error_rate(plain(speech.text.split()), plain(word["word"] for word in words)) <= 0.25


def test_an_english_model_refuses_another_language(stage):
    with pytest.raises(ValueError, match="language 'de' is not one that .* knows: en; a multilingual model knows more"):
        Asr(model=stage.model, **OPTIONS, language="de").open()
