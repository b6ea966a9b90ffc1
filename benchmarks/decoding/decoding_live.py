"""Measures how far the video reader stays ahead of a live video: two frames a second of 1080p30, on two cores.

    python benchmarks/decoding/decoding_live.py [--height 1080] [--seconds 30] [--rounds 3] [--only NAME ...]

The reader decodes only what the sampled frames need. In the same run, with the same library and threads, every frame is
decoded, and the same ones are kept and converted to RGB. Both must give the same frames. The videos are synthetic: a
grainy panning picture with moving parts, in H.264 as different encoders write it.
"""

import sys
import tempfile
import zlib
from collections import deque
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import CannotMeasureError, Measured, Run, at_least, benchmark, holds, times_of
from videos import FPS, use_cores, width_of, write_filmed_video

SAMPLES_PER_S, N_CORES, ENCODED_S = 2, 2, 10
# Codec and options of each file. x264's default: up to 3 B-frames, used as references too, a key frame every 250.
ENCODERS = {
    "h264_default": ("libx264", {"preset": "medium"}),
    "h264_2s_gop": ("libx264", {"preset": "veryfast", "g": "60"}),
    "h264_10_frame_gop": ("libx264", {"preset": "veryfast", "g": "10"}),
    "h264_no_b_frames": ("libx264", {"preset": "veryfast", "bf": "0"}),
    "h264_intra_only": ("libx264", {"preset": "veryfast", "g": "1"}),
    "mjpeg": ("mjpeg", {}),
}


def measure(path: Path, seconds: int, rounds: int) -> dict[str, Any]:
    """Read a file in both ways alternately, and return the best times of each, and their ratio."""
    from livecc_hf.modeling import video_sampling
    from livecc_hf.video import reader

    ways = {"only_needed": reader.iter_frames, "every_frame": video_sampling.iter_frames}
    given = {
        name: [(zlib.crc32(frame.frame.numpy().tobytes()), frame.time_s) for frame in read(path, fps=SAMPLES_PER_S)]
        for name, read in ways.items()
    }
    best = dict.fromkeys(ways, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, read in ways.items():
            wall_s, cpu_s, _ = times_of(lambda read=read: deque(read(path, fps=SAMPLES_PER_S), maxlen=0))
            best[name] = min(best[name][0], wall_s), min(best[name][1], cpu_s)
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
    rounds: Annotated[int, "rounds, of which the fastest counts"] = 3,
    only: Annotated[tuple[str, ...], "the files to read", ENCODERS] = tuple(ENCODERS),
) -> Measured:
    """Read all files in both ways."""
    if seconds < 1 or (seconds > ENCODED_S and seconds % ENCODED_S):
        raise CannotMeasureError(f"--seconds {seconds}: expected 1 to {ENCODED_S}, or a multiple of {ENCODED_S}")
    n_cores, files = use_cores(N_CORES), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in only:
            path = Path(folder) / f"{name}.mov"
            codec, options = ENCODERS[name]
            write_filmed_video(path, seconds, height, codec, options)
            files[name] = {"encoder": {codec: options}} | measure(path, seconds, rounds)
            path.unlink()
            run.tell(f"{name}: {files[name]['only_needed']['times_real_time']:.1f} times real time")
    slowest = min(file["only_needed"]["times_real_time"] for file in files.values())
    targets = [
        at_least("times real time, the slowest file", slowest, 1),
        holds("the same frames", all(file["equal_frames"] for file in files.values())),
    ]
    video = f"{width_of(height)}x{height}, {FPS} fps, {seconds} s, {SAMPLES_PER_S} frames a second kept"
    return {"files": files, "video": video, "rounds": rounds, "n_cores_used": n_cores}, targets
