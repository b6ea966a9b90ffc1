"""Writes small synthetic videos for tests. Each frame carries its own number, so a test can tell which it was given."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# Frame numbers are painted as this many stripes, black for 0 and white for 1, the lowest bit leftmost.
_BITS = 12


@dataclass(frozen=True)
class VideoSpec:
    """What `write_video` writes. Sizes are (width, height) in pixels."""

    n_frames: int = 30
    fps: int | Fraction = 10
    # When each frame appears; `None`: at a constant rate from 0.
    times_s: Sequence[float | Fraction] | None = None
    size_px: tuple[int, int] = (96, 64)
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    # Counter-clockwise, as the display matrix asks of a player; `mirror` flips sideways after it.
    rotation_deg: int = 0
    mirror: bool = False
    # Length of a tone beside the picture, `None` for no audio.
    audio_s: float | None = None
    audio_codec: str = "aac"
    # Width of a pixel by its height.
    pixel_aspect: Fraction | None = None
    # Number of frame -> uint8 (H, W, 3) picture.
    paint: Callable[[int], np.ndarray] | None = None
    # Ticks per second of the frame times.
    clock: int = 90_000
    codec_options: dict[str, str] = field(default_factory=dict)
    muxer_options: dict[str, str] = field(default_factory=dict)
    muxer: str | None = None


def write_video(path: Path, **options) -> Path:
    """Write a video (see `VideoSpec` for the options) and return its path."""
    spec = VideoSpec(**options)
    times = spec.times_s or [Fraction(i) / spec.fps for i in range(spec.n_frames)]
    width, height = spec.size_px
    with av.open(str(path), "w", format=spec.muxer, options=spec.muxer_options) as container:
        fast = {"preset": "ultrafast", "bf": "0"} if spec.codec == "libx264" else {}
        video = container.add_stream(spec.codec, rate=spec.fps, options=fast | spec.codec_options)
        video.width, video.height, video.pix_fmt = width, height, spec.pixel_format
        video.codec_context.time_base = Fraction(1, spec.clock)
        if spec.pixel_aspect:
            video.codec_context.sample_aspect_ratio = spec.pixel_aspect
        if spec.rotation_deg or spec.mirror:
            video.set_display_rotation(spec.rotation_deg, hflip=spec.mirror)
        audio = container.add_stream(spec.audio_codec, rate=16_000) if spec.audio_s else None
        paint = spec.paint or (lambda index: numbered_picture(index, width, height))
        for index, time in enumerate(times):
            picture = av.VideoFrame.from_ndarray(paint(index), format="rgb24")
            frame = picture.reformat(format=spec.pixel_format)
            frame.pts, frame.time_base = round(Fraction(time) * spec.clock), Fraction(1, spec.clock)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            write_tone(container, audio, spec.audio_s)
    return path


def claim_length(path: Path, duration_s: float) -> Path:
    """Have the header of a Matroska file say another length than it has."""
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # the element's name and that it is a float of 8 bytes, in ms
    path.write_bytes(data[:at] + struct.pack(">d", duration_s * 1000) + data[at + 8 :])
    return path


def damage_time_table(path: Path, entry: int) -> Path:
    """Have an entry of an MP4's table of frame durations say some hours."""
    data = bytearray(path.read_bytes())
    n_frames, ticks = data.index(b"stts") + 12 + 8 * entry, data.index(b"stts") + 16 + 8 * entry
    assert int.from_bytes(data[n_frames:ticks]) == 1, "expected frames of unlike durations"
    data[ticks] = 0x7F
    path.write_bytes(data)
    return path


def write_audio(path: Path, duration_s: float = 1.0) -> Path:
    """Write a file that holds a tone and no picture."""
    with av.open(str(path), "w") as container:
        write_tone(container, container.add_stream("aac", rate=16_000), duration_s)
    return path


def write_tone(container, stream, duration_s: float) -> None:
    """Encode a tone into an open container."""
    rate, size = stream.codec_context.sample_rate, 1024
    for start in range(0, round(duration_s * rate), size):
        wave = np.sin(2 * np.pi * 440 * np.arange(start, start + size) / rate).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(0.2 * wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def numbered_picture(index: int, width: int, height: int) -> np.ndarray:
    """A picture (height, width, 3) that shows `index` as stripes."""
    columns = np.arange(width) * _BITS // width
    row = ((index >> columns) & 1).astype(np.uint8) * 215 + 20
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(frame) -> int:
    """The number painted by `numbered_picture`, read back from a decoded (3, H, W) frame."""
    row = np.asarray(frame).astype(float).mean(axis=(0, 1))
    stripes = np.array_split(row, _BITS)
    return sum(1 << bit for bit, stripe in enumerate(stripes) if np.median(stripe) > 128)
