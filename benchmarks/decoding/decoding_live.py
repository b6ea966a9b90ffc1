"""Measures how far the video reader keeps ahead of a live video: two frames a second of 1080p30, on two cores.

    python benchmarks/decoding/decoding_live.py [--height 1080] [--seconds 30] [--rounds 3] [--only NAME ...]

The reader decodes what the wanted frames need; beside it, in the same run and with the same library and threads, every
frame is decoded, and the same ones are kept and converted to RGB. Both give the same frames, which is checked. The
files are synthesized: a grainy picture that pans, with things that move, in H.264 as different encoders write it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import CannotMeasureError, Measured, Run, at_least, benchmark, holds, times_of
from videos import FPS, write_filmed_video

SAMPLES_PER_S, N_CORES, ENCODED_S = 2, 2, 10
# Codec and options of each file. x264's default: up to 3 B-frames, referred to in a pyramid, a key frame every 250.
ENCODERS = {
    "h264_default": ("libx264", {"preset": "medium"}),
    "h264_2s_gop": ("libx264", {"preset": "veryfast", "g": "60"}),
    "h264_10_frame_gop": ("libx264", {"preset": "veryfast", "g": "10"}),
    "h264_no_b_frames": ("libx264", {"preset": "veryfast", "bf": "0"}),
    "h264_intra_only": ("libx264", {"preset": "veryfast", "g": "1"}),
    "mjpeg": ("mjpeg", {}),
}


def only_needed(path: Path) -> Iterator:
    """Return the reader's frames: (RGB tensor, sample time in seconds)."""
    from livecc_hf.video.reader import iter_frames

    return ((frame.frame, frame.time_s) for frame in iter_frames(path, fps=SAMPLES_PER_S))


def every_frame(path: Path) -> Iterator:
    """Decode every frame, and return those that the reader gives: (RGB tensor, sample time in seconds)."""
    from livecc_hf.modeling.video_sampling import iter_frames

    return ((frame.frame, frame.time_s) for frame in iter_frames(path, fps=SAMPLES_PER_S))


WAYS = {"only_needed": only_needed, "every_frame": every_frame}


def measure(path: Path, seconds: int, rounds: int) -> dict:
    """Read a file in both ways, in turns, and return the best times of each, and their ratio."""
    given = {name: [(zlib.crc32(image.numpy()), at_s) for image, at_s in read(path)] for name, read in WAYS.items()}
    best = {name: (float("inf"), float("inf")) for name in WAYS}
    for _ in range(rounds):
        for name, read in WAYS.items():
            took = times_of(lambda read=read: deque(read(path), maxlen=0))
            best[name] = tuple(map(min, best[name], took[:2]))
    rates = {
        name: {"times_real_time": seconds / wall_s, "wall_s": wall_s, "cpu_s": cpu_s}
        for name, (wall_s, cpu_s) in best.items()
    }
    return {
        **rates,
        "wall_ratio": best["every_frame"][0] / best["only_needed"][0],
        "cpu_ratio": best["every_frame"][1] / best["only_needed"][1],
        "equal_frames": given["only_needed"] == given["every_frame"],
        "n_frames_kept": len(given["only_needed"]),
        "megabits_per_s": path.stat().st_size * 8e-6 / seconds,
    }


@benchmark("decoding_live.json", "av", "torch", small={"height": 90, "seconds": 2})
def main(
    run: Run,
    height: Annotated[int, "height of the video in pixels, 16:9"] = 1080,
    seconds: Annotated[int, f"length of the video; above {ENCODED_S}, a multiple"] = 30,
    rounds: Annotated[int, "the best of as many rounds is taken"] = 3,
    only: Annotated[list[str], "the files to read", ENCODERS] = list(ENCODERS),  # noqa: B006
) -> Measured:
    """Measure."""
    if seconds < 1 or (seconds > ENCODED_S and seconds % ENCODED_S):
        raise CannotMeasureError(f"--seconds {seconds}: expected 1 to {ENCODED_S}, or a multiple of {ENCODED_S}")
    # Before FFmpeg and torch count the cores.
    os.sched_setaffinity(0, cores := sorted(os.sched_getaffinity(0))[:N_CORES])

    import torch

    torch.set_num_threads(1)
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in only:
            path = Path(folder) / f"{name}.mov"
            codec, options = ENCODERS[name]
            write_filmed_video(path, seconds, height, codec, options)
            files[name] = {"encoder": {codec: options}} | measure(path, seconds, rounds)
            path.unlink()
            print(f"{name}: {files[name]['only_needed']['times_real_time']:.1f} times real time", flush=True)
    slowest = min(file["only_needed"]["times_real_time"] for file in files.values())
    targets = [
        at_least("times real time, the slowest file", slowest, 1),
        holds("the same frames", all(file["equal_frames"] for file in files.values())),
    ]
    video = f"{height * 16 // 9 // 2 * 2}x{height}, {FPS} fps, {seconds} s, {SAMPLES_PER_S} frames a second kept"
    return {"files": files, "video": video, "rounds": rounds, "n_cores_used": len(cores)}, targets


if __name__ == "__main__":
    sys.exit(main())
