"""Speech for tests: espeak-ng reads a text into the sound of a small video."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import itertools
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


def speak_timed(text: str, words_per_min: int = 150) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return speech as int16 samples, mono, 16 kHz, and the start of each word by espeak-ng's own events.

    Words that it speaks as one with the one before, such as the second of "on the", have no event and are left out.

    Args:
        text: ASCII, with single blanks.
    """
    parts, starts = [], []

    def take(samples, n_samples: int, events) -> int:
        if samples and n_samples:
            parts.append(np.ctypeslib.as_array(samples, (n_samples,)).copy())
        for event in itertools.takewhile(lambda event: event.type, map(events.__getitem__, itertools.count())):
            if event.type == _WORD_BEGINS and event.length:
                starts.append((event.audio_position / 1000, event.text_position - 1))
        return 0

    library, rate_hz = _espeak()
    callback = _CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(b"en")
    library.espeak_SetParameter(_RATE, words_per_min, 0)
    encoded = text.encode("ascii") + b"\0"
    library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, 0, None, None)
    library.espeak_Synchronize()
    return _resampled(np.concatenate(parts), rate_hz), [(s, text[at:].split()[0]) for s, at in starts]


_RETRIEVAL, _RATE, _WORD_BEGINS = 1, 1, 1  # of speak_lib.h


class _Event(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("type", "message", "text_position", "length", "audio_position", "sample")),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@functools.cache
def _espeak() -> tuple[ctypes.CDLL, int]:
    """Return the library and its sample rate; a process may initialise it only once."""
    library = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
    return library, library.espeak_Initialize(_RETRIEVAL, 0, None, 0)


def _resampled(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    return np.concatenate([part.to_ndarray()[0] for item in (frame, None) for part in resampler.resample(item)])


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
    return write_scene(path, scene, sound, size_px)


def write_scene(path: Path, scene, sound: np.ndarray, size_px: int = 480) -> Path:
    """Write a file of a scene of the small world, with this sound.

    Args:
        path: a file that ends in .mkv (its sound as it is) or .mp4 (AAC).
        scene: a `livecc_hf.tiny.scene.Scene`.
        sound: int16, mono, 16 kHz.
        size_px: side of the picture.
    """
    from livecc_hf.tiny.rendering import draw_frame

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=_FPS, options={"preset": "ultrafast", "bf": "0"})
        video.width, video.height, video.pix_fmt = size_px, size_px, "yuv420p"
        codec, sample_format = ("aac", "fltp") if path.suffix == ".mp4" else ("pcm_s16le", "s16")
        audio = container.add_stream(codec, rate=RATE_HZ, layout="mono")
        for index in range(round(scene.duration_s * _FPS)):
            drawn = draw_frame(scene, index / _FPS, size_px // _SCALE).repeat(_SCALE, 0).repeat(_SCALE, 1)
            picture = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, _FPS)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        samples = sound if sample_format == "s16" else (sound / 32768).astype(np.float32)
        step = 1024  # AAC's frames
        for begin in range(0, len(samples), step):
            part = samples[None, begin : begin + step]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format=sample_format, layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), begin
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path
