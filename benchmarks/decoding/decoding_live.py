"""Measures how far the video reader keeps ahead of a live video: two frames a second of 1080p30, on two cores.

    python benchmarks/decoding/decoding_live.py [--height 1080] [--seconds 30] [--rounds 3] [--only NAME ...]

The reader decodes what the wanted frames need; beside it, in the same run and with the same library and threads, every
frame is decoded, and the same ones are kept and converted to RGB. Both give the same frames, which is checked. The
files are synthesized: a grainy picture that pans, with things that move, in H.264 as different encoders write it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import hardware
from videos import repeat_video

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "benchmarks" / "results" / "decoding_live.json"
RATE = 30
SAMPLES_PER_S = 2
N_CORES = 2
# What is encoded; longer videos repeat it.
ENCODED_S = 10
# Codec and options of each file. x264's default: up to 3 B-frames, referred to in a pyramid, a key frame every 250.
ENCODERS = {
    "h264_default": ("libx264", {"preset": "medium"}),
    "h264_2s_gop": ("libx264", {"preset": "veryfast", "g": "60"}),
    "h264_10_frame_gop": ("libx264", {"preset": "veryfast", "g": "10"}),
    "h264_no_b_frames": ("libx264", {"preset": "veryfast", "bf": "0"}),
    "h264_intra_only": ("libx264", {"preset": "veryfast", "g": "1"}),
    "mjpeg": ("mjpeg", {}),
}


def write_filmed_video(path: Path, seconds: int, height_px: int, codec: str, options: dict[str, str]) -> None:
    """Writes a video of filtered noise that pans behind moving squares, with grain, so that it costs what film costs.

    Args:
        path: a .mov file.
        seconds: its length; what is longer than `ENCODED_S` repeats that.
        height_px: its height, 16:9.
        codec, options: the encoder's name and options.
    """
    import av
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    height, width = height_px, height_px * 16 // 9 // 2 * 2
    rng = torch.Generator().manual_seed(0)
    scene = torch.full((2 * height, 2 * width), 128.0)
    for scale, gain in ((64, 50), (16, 30), (4, 15), (2, 8)):
        noise = torch.randn(1, 1, 2 * height // scale, 2 * width // scale, generator=rng)
        scene += gain * interpolate(noise, (2 * height, 2 * width), mode="bilinear")[0, 0]
    scene = scene.clamp(16, 235).byte().numpy()
    grain = (2 * torch.randn(2 * height, 2 * width, generator=rng)).clamp(-6, 6).char().numpy().view(np.uint8)
    side, part = height // 4, path.with_name(f"part{path.suffix}")
    with av.open(str(part), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(min(seconds, ENCODED_S) * RATE):
            at = index / RATE
            y, x = (int(size / 2 * (1 + np.sin(at * speed))) for size, speed in ((height, 0.31), (width, 0.23)))
            planes = np.full((height * 3 // 2, width), 128, np.uint8)
            picture = planes[:height]
            picture[:] = scene[y : y + height, x : x + width]
            for square in range(4):
                top = int((height - side) / 2 * (1 + np.sin(at * (0.7 + 0.4 * square))))
                left = int((width - side) / 2 * (1 + np.cos(at * (0.5 + 0.3 * square))))
                picture[top : top + side, left : left + side] = scene[square * side : (square + 1) * side, -side:]
            y, x = (index * step % size for step, size in ((613, height), (877, width)))
            picture += grain[y : y + height, x : x + width]  # wraps around, which adds the negative ones
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    repeat_video(part, path, -(-seconds // ENCODED_S))


def every_frame(path: Path) -> Iterator:
    """Decodes every frame, and gives those that the reader gives: (RGB tensor, sample time in seconds)."""
    from livecc_hf.modeling.video_file import VideoSource, frame_to_rgb
    from livecc_hf.modeling.video_reader import on_screen

    first, count = None, 0
    with VideoSource(path) as source:
        for appears, leaves, frame, at_end in on_screen(source, source.frames()):
            first = appears if first is None else first
            sample = first + Fraction(count, SAMPLES_PER_S)
            image = None
            while sample < leaves or (sample == leaves and not at_end):
                image = frame_to_rgb(frame) if image is None else image
                yield image, float(sample)
                count += 1
                sample = first + Fraction(count, SAMPLES_PER_S)


def only_needed(path: Path) -> Iterator:
    """The reader's frames: (RGB tensor, sample time in seconds)."""
    from livecc_hf.modeling.video_reader import iter_frames

    return ((frame.frame, frame.time_s) for frame in iter_frames(path, fps=SAMPLES_PER_S))


def measure(path: Path, seconds: int, rounds: int) -> dict:
    """Reads a file in both ways, in turns, and returns the rates of the best round of each, and their ratio."""
    ways: dict[str, Callable[[Path], Iterator]] = {"only_needed": only_needed, "every_frame": every_frame}
    given = {name: [(zlib.crc32(image.numpy()), at_s) for image, at_s in read(path)] for name, read in ways.items()}
    best = {name: (float("inf"), float("inf")) for name in ways}
    for _ in range(rounds):
        for name, read in ways.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            for _frame in read(path):
                pass
            wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
            best[name] = tuple(map(min, best[name], (wall_s, cpu_s)))
    rates = {
        name: {"times_real_time": round(seconds / wall_s, 1), "wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3)}
        for name, (wall_s, cpu_s) in best.items()
    }
    return {
        **rates,
        "wall_ratio": round(best["every_frame"][0] / best["only_needed"][0], 2),
        "cpu_ratio": round(best["every_frame"][1] / best["only_needed"][1], 2),
        "equal_frames": given["only_needed"] == given["every_frame"],
        "n_frames_kept": len(given["only_needed"]),
        "n_packets_decoded": n_packets_decoded(path),
        "n_packets": seconds * RATE,
        "megabits_per_s": round(path.stat().st_size * 8e-6 / seconds, 1),
    }


def n_packets_decoded(path: Path) -> int:
    """How many of a file's packets the reader decodes for its frames."""
    from livecc_hf.modeling.video_packets import PacketFilter

    count, needed = 0, PacketFilter.needed

    def counting(self, packets):
        nonlocal count
        for packet in needed(self, packets):
            count += packet is not None and packet.size > 0
            yield packet

    PacketFilter.needed = counting
    try:
        for _frame in only_needed(path):
            pass
    finally:
        PacketFilter.needed = needed
    return count


def main() -> int:
    """Measures and writes; 1 if frames differ, or a file is not read faster than it plays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=1080, help="height of the video in pixels, 16:9")
    parser.add_argument("--seconds", type=int, default=30, help=f"length of the video; above {ENCODED_S}, a multiple")
    parser.add_argument("--rounds", type=int, default=3, help="the best of as many rounds is taken")
    parser.add_argument("--only", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="the files to read")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    if seconds < 1 or (seconds > ENCODED_S and seconds % ENCODED_S):
        parser.error(f"--seconds {seconds}: expected 1 to {ENCODED_S}, or a multiple of {ENCODED_S}")
    # Before FFmpeg and torch count the cores.
    cores = sorted(os.sched_getaffinity(0))[:N_CORES]
    os.sched_setaffinity(0, cores)

    import av
    import torch

    torch.set_num_threads(1)
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            path = Path(folder) / f"{name}.mov"
            codec, options = ENCODERS[name]
            write_filmed_video(path, seconds, arguments.height, codec, options)
            files[name] = {"encoder": {codec: options}} | measure(path, seconds, arguments.rounds)
            path.unlink()
            print(name, json.dumps(files[name]), flush=True)
    result = {
        "files": files,
        "video": f"{arguments.height * 16 // 9 // 2 * 2}x{arguments.height}, {RATE} fps, {seconds} s, "
        f"{SAMPLES_PER_S} frames a second kept",
        "rounds": arguments.rounds,
        "hardware": hardware(),
        "n_cores_used": len(cores),
        "versions": {"av": av.__version__, "torch": torch.__version__},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    sound = all(file["equal_frames"] and file["only_needed"]["times_real_time"] > 1 for file in files.values())
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
