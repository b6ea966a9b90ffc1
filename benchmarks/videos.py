"""Videos for benchmarks, synthesized so that they cost what filmed video costs."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

FPS = 30
GOP = 250  # frames from one key frame to the next


def write_moving_video(path: Path, seconds: int, width: int, height: int) -> None:
    """Write a color video of noise that pans, with blobs that move. A minute is encoded; longer videos repeat it."""
    scene = _noise(3, height, width, {64: 70, 16: 40, 4: 25, 1: 12}).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    options = {"preset": "veryfast", "crf": "23", "g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0"}
    frames = ((picture, "rgb24") for picture in _panned(scene, height, width, 3))
    _encode(path, seconds, 60, frames, width, height, "libx264", options)


def write_filmed_video(path: Path, seconds: int, height: int, codec: str, options: dict[str, str]) -> None:
    """Write a gray video, 16:9, of noise that pans behind moving squares, with grain; 10 seconds are encoded.

    Args:
        path: a .mov file.
        seconds: its length; a multiple of 10 where it is longer.
        height: in pixels.
        codec, options: the encoder's name and options.
    """
    import numpy as np
    import torch

    width = height * 16 // 9 // 2 * 2
    rng = torch.Generator().manual_seed(0)
    scene = _noise(1, height, width, {64: 50, 16: 30, 4: 15, 2: 8}, rng)[0].clamp(16, 235).byte().numpy()
    grain = (2 * torch.randn(2 * height, 2 * width, generator=rng)).clamp(-6, 6).char().numpy().view(np.uint8)

    def frames() -> Iterator[tuple[np.ndarray, str]]:
        for index, picture in enumerate(_panned(scene, height, width, 4)):
            y, x = (index * step % size for step, size in ((613, height), (877, width)))
            planes = np.full((height * 3 // 2, width), 128, np.uint8)
            planes[:height] = picture + grain[y : y + height, x : x + width]  # wraps around, which adds negative ones
            yield planes, "yuv420p"

    _encode(path, seconds, 10, frames(), width, height, codec, options)


def _noise(n_channels: int, height: int, width: int, gains: dict[int, int], rng=None):
    """Return a picture twice as large around 128, of noise of several grain sizes (pixels -> gain)."""
    import torch
    from torch.nn.functional import interpolate

    rng = rng or torch.Generator().manual_seed(0)
    scene = torch.full((n_channels, 2 * height, 2 * width), 128.0)
    for scale, gain in gains.items():
        noise = torch.randn(1, n_channels, 2 * height // scale, 2 * width // scale, generator=rng)
        scene += gain * interpolate(noise, (2 * height, 2 * width), mode="bilinear")[0]
    return scene


def _panned(scene, height: int, width: int, n_blobs: int) -> Iterator:
    """Yield views of a scene twice as large, with parts of it that move in front, without end."""
    import numpy as np

    side, index = height // 4, 0
    while True:
        at, index = index / FPS, index + 1
        y, x = (int(size / 2 * (1 + np.sin(at * speed))) for size, speed in ((height, 0.31), (width, 0.23)))
        picture = scene[y : y + height, x : x + width].copy()
        for blob in range(n_blobs):
            top = int((height - side) / 2 * (1 + np.sin(at * (0.7 + 0.4 * blob))))
            left = int((width - side) / 2 * (1 + np.cos(at * (0.5 + 0.3 * blob))))
            picture[top : top + side, left : left + side] = scene[blob * side : (blob + 1) * side, -side:]
        yield picture


def _encode(
    path: Path, seconds: int, encoded_s: int, frames, width: int, height: int, codec: str, options: dict[str, str]
) -> None:
    """Encode frames (array, format), and write their packets as often as makes so many seconds."""
    import av

    part = path.with_name(f"part{path.suffix}")
    with av.open(str(part), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index, (picture, format) in enumerate(islice(frames, min(seconds, encoded_s) * FPS)):
            frame = av.VideoFrame.from_ndarray(picture, format=format).reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path), "w") as container:
        stream = None
        for number in range(-(-seconds // encoded_s)):
            with av.open(str(part)) as source:
                stream = stream or container.add_stream_from_template(source.streams.video[0])
                length = source.streams.video[0].duration
                for packet in source.demux(video=0):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + number * length, packet.dts + number * length
                        packet.stream = stream
                        container.mux(packet)
    part.unlink()
