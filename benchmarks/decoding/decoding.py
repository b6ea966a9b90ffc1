"""Measures how many clips a core decodes per second: by seeking, against reading the file up to the clip's end.

    python benchmarks/decoding/decoding.py [--height 720] [--seconds 300] [--output FILE]

Both ways decode with the same library, keep the same frames and resize them in the same way, and their results are
compared. The file is synthesized: a textured picture that moves and pans, H.264 with a key frame every 250 frames.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import at_least, finish, holds, machine, parser, times_of
from videos import FPS, GOP, write_moving_video

# Begin as a share of the file's length, and length in seconds.
CLIPS = ((0.0, 30), (0.1, 45), (0.25, 60), (0.4, 30), (0.55, 45), (0.7, 60), (0.8, 45), (0.9, 30))


def read_from_the_start(path: Path, plan, video_processor):
    """Read a clip without seeking: every frame up to its end is decoded, the same ones are kept and resized."""
    import torch

    from livecc_hf.data.media.clip_frames import resize_frame
    from livecc_hf.modeling.video_sampling import iter_frames

    with closing(iter_frames(path, plan.first_s, origin_s=plan.origin_s)) as sampled:
        frames = islice(sampled, plan.n_sampled)
        return torch.stack([resize_frame(each.frame, plan, video_processor) for each in frames])


def measure(read: Callable, spans: list[tuple[float, float]], rounds: int) -> tuple[dict, list[int]]:
    """Read all clips, and return the rates of the best of `rounds` and a checksum of each clip's frames.

    Rates for each core count the time the process ran, which other work on the machine does not lengthen.
    """
    best, sums = (float("inf"), float("inf")), []
    for _ in range(rounds):
        took = [times_of(read, span) for span in spans]
        best = min(best, (sum(cpu_s for _, cpu_s, _ in took), sum(wall_s for wall_s, _, _ in took)))
        sums = [zlib.crc32(frames.numpy()) for _, _, frames in took]
    cpu_s, wall_s = best
    clip_s = sum(end - begin for begin, end in spans)
    rates = {"clips_per_s_per_core": len(spans) / cpu_s, "video_s_per_s_per_core": clip_s / cpu_s}
    return {**rates, "cpu_s": cpu_s, "wall_s": wall_s}, sums


def main() -> int:
    """Measure and write; 1 if seeking is less than twice as fast."""
    made = parser(__doc__)
    made.add_argument("--height", type=int, help="height of the video in pixels, 16:9; default: 720")
    made.add_argument("--seconds", type=int, help="length of the video; default: 300")
    made.add_argument("--rounds", type=int, default=1, help="the best of as many rounds is taken")
    arguments = made.parse_args()
    height, seconds = arguments.height or (90 if arguments.small else 720), arguments.seconds or 300
    described = machine("av", "torch")
    # One core, before FFmpeg and torch count them: both then work with one thread.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["OMP_NUM_THREADS"] = "1"

    import torch

    from livecc_hf.data.media.clip_frames import plan_clip, read_clip
    from livecc_hf.modeling import LiveCCVideoProcessor

    torch.set_num_threads(1)
    video_processor = LiveCCVideoProcessor()
    width = height * 16 // 9 // 2 * 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_moving_video(path, seconds, width, height)
        spans = [(begin * seconds, begin * seconds + length) for begin, length in CLIPS]
        spans = [(begin, end) for begin, end in spans if end <= seconds][: 2 if arguments.small else None]
        plans = {span: plan_clip(path, *span, video_processor) for span in spans}
        seek, seek_sums = measure(
            lambda span: read_clip(path, plans[span], video_processor).frames, spans, arguments.rounds
        )
        full, full_sums = measure(
            lambda span: read_from_the_start(path, plans[span], video_processor), spans, arguments.rounds
        )
        size_mb = path.stat().st_size / 1e6
    report = {
        "seek": seek,
        "full_file": full,
        "ratio": seek["clips_per_s_per_core"] / full["clips_per_s_per_core"],
        "equal_frames": seek_sums == full_sums,
        "clips_s": spans,
        "frame_px": [[plan.height_px, plan.width_px] for plan in plans.values()],
        "video": f"{width}x{height}, {FPS} fps, H.264, key frame every {GOP}, {seconds} s, {size_mb:.0f} MB",
        "threads": 1,
        **described,
    }
    targets = [
        at_least("seeking to reading from the start", report["ratio"], 2),
        holds("the same frames", report["equal_frames"]),
    ]
    return finish(arguments, report, targets, "decoding.json")


if __name__ == "__main__":
    sys.exit(main())
