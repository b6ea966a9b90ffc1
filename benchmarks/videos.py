"""Synthetic videos that cost as much to decode as filmed ones."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 30
GOP = 250  # frames from one key frame to the next


def use_cores(n: int) -> int:
    """Restrict this process to at most `n` cores and torch to one thread; return the number of cores.

    To be called before FFmpeg or torch count the cores.
    """
    os.sched_setaffinity(0, cores := sorted(os.sched_getaffinity(0))[:n])
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    return len(cores)


def width_of(height: int) -> int:
    """Return the even width of a 16:9 video."""
    return height * 16 // 9 // 2 * 2


def write_moving_video(path: Path, seconds: int, height: int) -> None:
    """Write a color video of panning noise with moving blobs, H.264; a minute is encoded and repeated."""
    scene = _noise(3, height, {64: 70, 16: 40, 4: 25, 1: 12}).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    options = {"preset": "veryfast", "crf": "23", "g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0"}
    _encode(path, seconds, 60, ((picture, "rgb24") for picture in _panned(scene, height, 3)), "libx264", options)


def write_filmed_video(path: Path, seconds: int, height: int, codec: str, options: dict[str, str]) -> None:
    """Write a gray video of panning noise behind moving squares, with grain; 10 seconds are encoded and repeated."""
    import torch

    width, rng = width_of(height), torch.Generator().manual_seed(0)
    scene = _noise(1, height, {64: 50, 16: 30, 4: 15, 2: 8}, rng)[0].clip(16, 235).astype(np.uint8)
    grain = (2 * torch.randn(2 * height, 2 * width, generator=rng)).clamp(-6, 6).char().numpy().view(np.uint8)

    def frames() -> Iterator[tuple[np.ndarray, str]]:
        for index, picture in enumerate(_panned(scene, height, 4)):
            y, x = (index * step % size for step, size in ((613, height), (877, width)))
            planes = np.full((height * 3 // 2, width), 128, np.uint8)
            planes[:height] = picture + grain[y : y + height, x : x + width]  # wraps around, which adds negative ones
            yield planes, "yuv420p"

    _encode(path, seconds, 10, frames(), codec, options)


def _noise(n_channels: int, height: int, gains: dict[int, int], rng: Any = None) -> np.ndarray:
    """Return a picture of twice the size around 128, with noise of several grain sizes (pixels -> gain)."""
    import torch
    from torch.nn.functional import interpolate

    rng, width = rng or torch.Generator().manual_seed(0), width_of(height)
    scene = torch.full((n_channels, 2 * height, 2 * width), 128.0)
    for scale, gain in gains.items():
        noise = torch.randn(1, n_channels, 2 * height // scale, 2 * width // scale, generator=rng)
        scene += gain * interpolate(noise, (2 * height, 2 * width), mode="bilinear")[0]
    return scene.numpy()


def _panned(scene: np.ndarray, height: int, n_blobs: int) -> Iterator[np.ndarray]:
    """Yield views of a scene of twice the size, with parts of it moving in front, indefinitely."""
    side, width = height // 4, width_of(height)
    for index in count():
        at = index / FPS
        y, x = (int(size / 2 * (1 + np.sin(at * speed))) for size, speed in ((height, 0.31), (width, 0.23)))
        picture = scene[y : y + height, x : x + width].copy()
        for blob in range(n_blobs):
            top = int((height - side) / 2 * (1 + np.sin(at * (0.7 + 0.4 * blob))))
            left = int((width - side) / 2 * (1 + np.cos(at * (0.5 + 0.3 * blob))))
            picture[top : top + side, left : left + side] = scene[blob * side : (blob + 1) * side, -side:]
        yield picture


def _encode(
    path: Path,
    seconds: int,
    encoded_s: int,
    frames: Iterable[tuple[np.ndarray, str]],
    codec: str,
    options: dict[str, str],
) -> None:
    """Encode frames (array, format) of the first `encoded_s` seconds, and repeat their packets up to `seconds`."""
    part, pixels = path.with_name(f"part{path.suffix}"), "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with av.open(str(part), "w") as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options)
        for index, (picture, format) in enumerate(islice(frames, min(seconds, encoded_s) * FPS)):
            frame = av.VideoFrame.from_ndarray(picture, format=format).reformat(format=pixels)
            if index == 0:
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pixels
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path), "w") as container:
        stream = None
        for number in range(-(-seconds // encoded_s)):
            with av.open(str(part)) as source:
                stream = stream or container.add_stream_from_template(source.streams.video[0])
                length = source.streams.video[0].duration or 0
                for packet in source.demux(video=0):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts = packet.pts + number * length, packet.dts + number * length
                        packet.stream = stream
                        container.mux(packet)
    part.unlink()
