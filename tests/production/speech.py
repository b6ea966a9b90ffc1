"""Speech for tests: espeak-ng reads a text into the sound of a small video."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

RATE_HZ = 16_000
_FPS = 4
_SCALE = 3  # drawing large pictures takes long
needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed: apt-get install espeak-ng"
)


def speak(text: str, work: Path, words_per_min: int = 150) -> np.ndarray:
    """Return speech as int16 samples, mono, 16 kHz."""
    file = work / "speech.wav"
    subprocess.run(["espeak-ng", "-s", str(words_per_min), "-w", str(file), text], check=True, capture_output=True)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    with av.open(str(file)) as container:
        frames = [*container.decode(audio=0), None]
        return np.concatenate([part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)])


def write_sound(path: Path, samples: np.ndarray | None, start_s: float = 0.0, gaps: tuple = ()) -> Path:
    """Write a Matroska file with a black picture and this sound.

    Args:
        path: a file that ends in .mkv.
        samples: int16, mono, 16 kHz; `None`: no audio stream.
        start_s: when the sound starts.
        gaps: `(sample, seconds)`: after so many samples the file has no sound for so long.
    """
    n_samples = 0 if samples is None else len(samples)
    end_s = start_s + n_samples / RATE_HZ + sum(gap_s for _, gap_s in gaps) + 1
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=5, options={"preset": "ultrafast", "bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = None if samples is None else container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for index in range(round(end_s * 5)):
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 5)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for begin in range(0, n_samples, 800):
            frame = av.AudioFrame.from_ndarray(samples[None, begin : begin + 800], format="s16", layout="mono")
            late_s = start_s + sum(gap_s for after, gap_s in gaps if begin >= after)
            frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            frame.pts = begin + round(late_s * RATE_HZ)
            container.mux(audio.encode(frame))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def write_narrated_video(path: Path, scene, words: Sequence[tuple[float, float, str]], size_px: int = 480) -> Path:
    """Write a Matroska file of a scene of the small world, and of espeak-ng speaking each sentence when it begins.

    Args:
        path: a file that ends in .mkv.
        scene: a `livecc_hf.tiny.scene.Scene`.
        words: `(start_s, end_s, word)`; a sentence ends with a full stop.
        size_px: side of the picture.
    """
    from livecc_hf.tiny.rendering import draw_frame

    sound = np.zeros(round(scene.duration_s * RATE_HZ), np.int16)
    sentence: list[tuple[float, float, str]] = []
    for word in words:
        sentence.append(word)
        if word[2].endswith("."):
            begin = round(sentence[0][0] * RATE_HZ)
            # The next sentence may begin a second later.
            spoken = speak(" ".join(text for *_, text in sentence), path.parent, words_per_min=260)[:RATE_HZ]
            sound[begin : begin + len(spoken)] = spoken[: len(sound) - begin]
            sentence = []
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=_FPS, options={"preset": "ultrafast", "bf": "0"})
        video.width, video.height, video.pix_fmt = size_px, size_px, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for index in range(round(scene.duration_s * _FPS)):
            drawn = draw_frame(scene, index / _FPS, size_px // _SCALE).repeat(_SCALE, 0).repeat(_SCALE, 1)
            picture = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, _FPS)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for begin in range(0, len(sound), 800):
            frame = av.AudioFrame.from_ndarray(sound[None, begin : begin + 800], format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), begin
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path
