"""Videos for benchmarks, synthesized so that they cost what filmed video costs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

FPS = 30
GOP = 250  # frames from one key frame to the next


def write_moving_video(path: Path, seconds: int, width: int, height: int) -> None:
    """Writes a video of filtered noise that pans, with blobs that move, so that it costs what filmed video costs.

    A minute is encoded; longer videos repeat it.
    """
    import av
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    rng = torch.Generator().manual_seed(0)
    scene = 0
    for scale, gain in ((64, 70), (16, 40), (4, 25), (1, 12)):
        noise = torch.randn(1, 3, 2 * height // scale, 2 * width // scale, generator=rng)
        scene = scene + gain * interpolate(noise, (2 * height, 2 * width), mode="bilinear")
    scene = (scene[0] + 128).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    side = height // 4
    minute = path.with_name("minute.mp4")
    with av.open(str(minute), "w") as container:
        options = {"preset": "veryfast", "crf": "23", "g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(min(seconds, 60) * FPS):
            at = index / FPS
            y, x = (int(size / 2 * (1 + np.sin(at * speed))) for size, speed in ((height, 0.31), (width, 0.23)))
            picture = scene[y : y + height, x : x + width].copy()
            for blob in range(3):
                top = int((height - side) / 2 * (1 + np.sin(at * (0.7 + 0.4 * blob))))
                left = int((width - side) / 2 * (1 + np.cos(at * (0.5 + 0.3 * blob))))
                picture[top : top + side, left : left + side] = scene[blob * side : (blob + 1) * side, -side:]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    repeat_video(minute, path, -(-seconds // 60))


def repeat_video(source: Path, path: Path, times: int) -> None:
    """Writes a video's packets several times in a row."""
    import av

    with av.open(str(path), "w") as container:
        stream = None
        for number in range(times):
            with av.open(str(source)) as part:
                stream = stream or container.add_stream_from_template(part.streams.video[0])
                length = part.streams.video[0].duration
                for packet in part.demux(video=0):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + number * length, packet.dts + number * length
                        packet.stream = stream
                        container.mux(packet)
