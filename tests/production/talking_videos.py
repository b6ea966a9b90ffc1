"""Writes videos of a face that keeps still, or whose mouth is moved by the loudness of the sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from face_detectors import FACE_PX, MARK_ABOVE_PX, MARK_RGB
from PIL import Image

FPS, RATE_HZ = 25, 16_000
SIZE_PX = (320, 192)  # width, height
# A part of NASA's portrait of the astronaut Eileen Collins, which is in the public domain.
_PORTRAIT = Path(__file__).parents[1] / "data/faces/astronaut.jpg"
_MOUTH_FROM = 60  # the row of the portrait from which on it moves
_MOVE_PX = 14


@dataclass(frozen=True)
class Face:
    """A face in a video.

    Attributes:
        left_px, top_px: of its square, so that the mark over it begins at multiples of 8.
        is_moved: whether the sound moves its mouth.
        from_s, to_s: when it is there.
    """

    left_px: int = 116
    top_px: int = 84
    is_moved: bool = False
    from_s: float = 0.0
    to_s: float = 1e9


def loudness(samples: np.ndarray) -> np.ndarray:
    """Return the loudness of each frame's sound, from 0 to 1."""
    size = RATE_HZ // FPS
    pieces = np.abs(samples[: len(samples) // size * size].astype(float)).reshape(-1, size).mean(1)
    return pieces / max(pieces.max(initial=0.0), 1e-9)


def portrait(open_by: float = 0.0) -> np.ndarray:
    """Return the face (96, 96, 3) with the mouth opened by a share from 0 to 1."""
    face = np.asarray(Image.open(_PORTRAIT).convert("RGB"))
    down = round(open_by * _MOVE_PX)
    lower = Image.fromarray(face[_MOUTH_FROM:]).resize(
        (FACE_PX, FACE_PX - _MOUTH_FROM + down), Image.Resampling.BILINEAR
    )
    return np.concatenate([face[:_MOUTH_FROM], np.asarray(lower)[: FACE_PX - _MOUTH_FROM]])


def write_talking_video(
    path: Path, samples: np.ndarray | None, faces: Sequence[Face], length_s: float, sound_from_s: float = 0.0
) -> Path:
    """Write a Matroska file at 25 frames a second.

    Args:
        path: ends in .mkv.
        samples: int16, mono, 16 kHz; `None`: no audio stream.
        faces: that are seen.
        length_s: of the pictures.
        sound_from_s: when the sound starts; mouths move with it.
    """
    loud = loudness(samples) if samples is not None else np.zeros(0)
    shift = round(sound_from_s * FPS)
    pictures = {step: portrait(step / 12) for step in range(13)}
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "12", "bf": "0"})
        (video.width, video.height), video.pix_fmt = SIZE_PX, "yuv420p"
        audio = None if samples is None else container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for index in range(round(length_s * FPS)):
            canvas = np.full((SIZE_PX[1], SIZE_PX[0], 3), 90, np.uint8)
            now = loud[index - shift] if 0 <= index - shift < len(loud) else 0.0
            for face in faces:
                if face.from_s <= index / FPS < face.to_s:
                    _paste(canvas, face, pictures[round(12 * now) if face.is_moved else 0])
            frame = av.VideoFrame.from_ndarray(canvas, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for begin in range(0, 0 if audio is None else len(samples), 800):
            frame = av.AudioFrame.from_ndarray(samples[None, begin : begin + 800], format="s16", layout="mono")
            frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            frame.pts = begin + round(sound_from_s * RATE_HZ)
            container.mux(audio.encode(frame))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def _paste(canvas: np.ndarray, face: Face, picture: np.ndarray) -> None:
    canvas[face.top_px : face.top_px + FACE_PX, face.left_px : face.left_px + FACE_PX] = picture
    middle_x, middle_y = face.left_px + FACE_PX // 2, face.top_px + FACE_PX // 2 - MARK_ABOVE_PX
    canvas[middle_y - 4 : middle_y + 4, middle_x - 4 : middle_x + 4] = MARK_RGB
