"""Measures how many clips a core decodes per second: by seeking, against reading the file up to the clip's end.

    python benchmarks/decoding/decoding.py [--height 720] [--seconds 300] [--output FILE]

Both ways decode with the same library, keep the same frames and resize them in the same way, and their results are
compared. The file is synthesized: a textured picture that moves and pans, H.264 with a key frame every 250 frames.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import hardware
from videos import FPS, GOP, write_moving_video

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "benchmarks" / "results" / "decoding.json"
# Begin as a share of the file's length, and length in seconds.
CLIPS = ((0.0, 30), (0.1, 45), (0.25, 60), (0.4, 30), (0.55, 45), (0.7, 60), (0.8, 45), (0.9, 30))


def read_from_the_start(path: Path, plan, video_processor):
    """Reads a clip without seeking: every frame up to its end is decoded, the same ones are kept and resized."""
    import torch

    from livecc_hf.data.media.clip_frames import resize_frame
    from livecc_hf.modeling.video_file import VideoSource, frame_to_rgb
    from livecc_hf.modeling.video_reader import exact_number, on_screen

    images, first = [], exact_number("first_s", plan.first_s)
    with VideoSource(path) as source:
        for _appears, leaves, frame, at_end in on_screen(source, source.frames()):
            image = None
            while len(images) < plan.n_sampled:
                sample = first + Fraction(len(images), 2)
                if sample > leaves or (sample == leaves and at_end):
                    break
                image = resize_frame(frame_to_rgb(frame), plan, video_processor) if image is None else image
                images.append(image)
            if len(images) == plan.n_sampled:
                break
    return torch.stack(images)


def measure(read: Callable, spans: list[tuple[float, float]], rounds: int) -> tuple[dict, list[int]]:
    """Reads all clips, in the best of `rounds`, and says the rates and a checksum of each clip's frames.

    Rates for each core count the time the process ran, which other work on the machine does not lengthen.
    """
    best = (float("inf"), float("inf"))
    for _ in range(rounds):
        cpu_s = wall_s = 0.0
        sums = []
        for span in spans:
            start, start_cpu = time.perf_counter(), time.process_time()
            frames = read(span)
            cpu_s, wall_s = cpu_s + time.process_time() - start_cpu, wall_s + time.perf_counter() - start
            sums.append(zlib.crc32(frames.numpy()))
        best = min(best, (cpu_s, wall_s))
    cpu_s, wall_s = best
    clip_s = sum(end - begin for begin, end in spans)
    rates = {
        "clips_per_s_per_core": round(len(spans) / cpu_s, 3),
        "video_s_per_s_per_core": round(clip_s / cpu_s, 1),
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(wall_s, 2),
    }
    return rates, sums


def main() -> int:
    """Measures and writes; 1 if seeking is less than twice as fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=720, help="height of the video in pixels, 16:9")
    parser.add_argument("--seconds", type=int, default=300, help="length of the video")
    parser.add_argument("--rounds", type=int, default=1, help="the best of as many rounds is taken")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    arguments = parser.parse_args()
    machine = hardware()
    # One core, before FFmpeg and torch count them: both then work with one thread.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["OMP_NUM_THREADS"] = "1"

    import av
    import torch

    from livecc_hf.data.media.clip_frames import plan_clip, read_clip
    from livecc_hf.modeling import LiveCCVideoProcessor

    torch.set_num_threads(1)
    video_processor = LiveCCVideoProcessor()
    width = arguments.height * 16 // 9 // 2 * 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_moving_video(path, arguments.seconds, width, arguments.height)
        spans = [(begin * arguments.seconds, begin * arguments.seconds + length) for begin, length in CLIPS]
        spans = [(begin, end) for begin, end in spans if end <= arguments.seconds]
        plans = {span: plan_clip(path, *span, video_processor) for span in spans}
        ways = {
            "seek": lambda span: read_clip(path, plans[span], video_processor).frames,
            "full_file": lambda span: read_from_the_start(path, plans[span], video_processor),
        }
        rates, sums = {}, []
        for name, read in ways.items():
            rates[name], found = measure(read, spans, arguments.rounds)
            sums.append(found)
        equal = sums[0] == sums[1]
        size_mb = path.stat().st_size / 1e6
    ratio = rates["seek"]["clips_per_s_per_core"] / rates["full_file"]["clips_per_s_per_core"]
    result = {
        **rates,
        "ratio": round(ratio, 2),
        "equal_frames": equal,
        "clips_s": [list(span) for span in spans],
        "frame_px": [[plan.height_px, plan.width_px] for plan in plans.values()],
        "video": f"{width}x{arguments.height}, {FPS} fps, H.264, key frame every {GOP}, {arguments.seconds} s, "
        f"{size_mb:.0f} MB",
        "hardware": machine,
        "threads": 1,
        "versions": {"av": av.__version__, "torch": torch.__version__},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if equal and ratio >= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
