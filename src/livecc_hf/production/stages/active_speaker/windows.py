"""Reads what is scored of a clip: windows of pictures at 25 frames per second, and the sound."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ....data.media.paths import resolve_media
from ...backends.speech_audio import SPEECH_RATE_HZ, SpeechAudio

FPS = 25
MFCC_PER_FRAME = 4  # rows of MFCC, at 100 Hz, per frame
_INT16 = 32767


@dataclass(frozen=True)
class Pictures:
    """The pictures of a window.

    Attributes:
        frames: uint8 of shape (frames, height, width, 3), RGB.
        first: index of the first picture in the window; above 0 if the video's pictures begin after the window's start.
        scale: width of these pictures divided by the video's width.
    """

    frames: np.ndarray
    first: int
    scale: float


def windows_of(start_s: float, end_s: float, window_s: float, every_s: float) -> list[tuple[float, int]]:
    """Return the windows of a clip: their starts, in seconds from the clip's start, and lengths in frames.

    Windows that do not fit whole into the clip are left out; a clip shorter than a window is one short window.

    Args:
        start_s, end_s: the clip.
        window_s: length of a window.
        every_s: seconds from the start of a window to the start of the next.

    Raises:
        ValueError: if the clip is shorter than a frame.
    """
    # Rounded to microseconds, so that rounding errors do not lose a frame.
    length = int(round(end_s - start_s, 6) * FPS + 1e-6)
    size, step = round(window_s * FPS), round(every_s * FPS)
    if length < 1:
        raise ValueError(f"the clip runs from {start_s} to {end_s} s: expected at least 1/{FPS} s")
    if length < size:
        return [(0.0, length)]
    return [(first / FPS, size) for first in range(0, length - size + 1, step)]


def read_pictures(video: str, start_s: float, n_frames: int, side_px: int) -> Pictures:
    """Decode the pictures of a window.

    Args:
        video: path, as `resolve_media` takes it.
        start_s: in seconds from what a player shows as 0:00.
        n_frames: maximum number of pictures; fewer if the video's pictures begin after `start_s` or end early.
        side_px: longer side to which larger pictures are downscaled.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if no picture can be decoded in that time.
    """
    import torch
    from torchvision.transforms.v2.functional import resize

    from ....video.reader import iter_frames, probe_video

    path = resolve_media(video)
    # The end is half a step early, so that rounding does not add a frame.
    reader = iter_frames(path, start_s, start_s + (n_frames - 0.5) / FPS, FPS, probe_video(path).clock_start_s)
    frames: list[torch.Tensor] = []
    shown: torch.Tensor | None = None
    first, scale = 0, 1.0
    for sampled in reader:
        if not frames:
            first = max(round((sampled.time_s - start_s) * FPS), 0)
            scale = min(side_px / max(sampled.frame.shape[1:]), 1.0)
        if sampled.frame is shown:  # a picture that stays on screen is the same tensor
            frames.append(frames[-1])
            continue
        shown = sampled.frame
        height, width = (max(round(side * scale), 1) for side in shown.shape[1:])
        small = resize(shown, [height, width], antialias=True) if scale < 1 else shown
        frames.append(small.permute(1, 2, 0))
    if not frames:
        raise ValueError(f"{path} has no picture from {start_s:g} s on")
    return Pictures(torch.stack(frames[: n_frames - first]).numpy(), first, scale)


def clip_sound(audio: SpeechAudio, start_s: float, end_s: float) -> np.ndarray:
    """Return the sound of a clip, with silence for times at which the video has no sound.

    Args:
        audio: of the whole video.
        start_s, end_s: in seconds from what a player shows as 0:00.

    Returns:
        float64 of shape (samples,), 16 kHz, scaled to a peak of 32767; all 0 if the clip is silent.
    """
    begin, end = (round(time_s * SPEECH_RATE_HZ) for time_s in (start_s, end_s))
    sound = np.zeros(max(end - begin, 0), np.float32)
    # Samples between two cuts are consecutive; at a cut, silence was left out.
    edges = [0, *(sample for sample, _ in audio.cuts), len(audio.samples)]
    for first, last in pairwise(edges):
        if last <= first:
            continue
        place = round(audio.shown_s(first / SPEECH_RATE_HZ) * SPEECH_RATE_HZ) - begin
        low, high = max(place, 0), min(place + last - first, len(sound))
        if low < high:
            sound[low:high] = audio.samples[first + low - place : first + high - place]
    peak = float(np.abs(sound).max(initial=0.0))
    return np.trunc(sound.astype(np.float64) / peak * _INT16) if peak else sound.astype(np.float64)
