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
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_least, benchmark, holds, times_of
from videos import FPS, GOP, write_moving_video

# Begin as a share of the file's length, and length in seconds.
CLIPS = ((0.0, 30), (0.1, 45), (0.25, 60), (0.4, 30), (0.55, 45), (0.7, 60), (0.8, 45), (0.9, 30))


def by_seeking(path: Path, plan, video_processor):
    """Read a clip as training does."""
    from livecc_hf.data.media.clip_frames import read_clip

    return read_clip(path, plan, video_processor).frames


def from_the_start(path: Path, plan, video_processor):
    """Read a clip without seeking: every frame up to its end is decoded, the same ones are kept and resized."""
    import torch

    from livecc_hf.data.media.clip_frames import resize_frame
    from livecc_hf.modeling.video_sampling import iter_frames

    with closing(iter_frames(path, plan.first_s, origin_s=plan.origin_s)) as sampled:
        frames = islice(sampled, plan.n_sampled)
        return torch.stack([resize_frame(each.frame, plan, video_processor) for each in frames])


def rates(read, plans: dict, rounds: int) -> tuple[dict[str, float], list[int]]:
    """Read all clips, and return the rates of the best of `rounds` and a checksum of each clip's frames.

    Rates for each core count the time the process ran, which other work on the machine does not lengthen.
    """
    took = [[times_of(read, plan) for plan in plans.values()] for _ in range(rounds)]
    cpu_s, wall_s = min((sum(cpu_s for _, cpu_s, _ in one), sum(wall_s for wall_s, *_ in one)) for one in took)
    clip_s = sum(end - begin for begin, end in plans)
    found = {"clips_per_s_per_core": len(plans) / cpu_s, "video_s_per_s_per_core": clip_s / cpu_s}
    return {**found, "cpu_s": cpu_s, "wall_s": wall_s}, [zlib.crc32(frames.numpy()) for *_, frames in took[0]]


@benchmark("decoding.json", "av", "torch", small={"height": 90})
def main(
    run: Run,
    height: Annotated[int, "height of the video in pixels, 16:9"] = 720,
    seconds: Annotated[int, "length of the video"] = 300,
    rounds: Annotated[int, "the best of as many rounds is taken"] = 1,
) -> Measured:
    """Measure."""
    # One core, before FFmpeg and torch count them: both then work with one thread.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["OMP_NUM_THREADS"] = "1"

    import torch

    from livecc_hf.data.media.clip_frames import plan_clip
    from livecc_hf.modeling import LiveCCVideoProcessor

    torch.set_num_threads(1)
    video_processor = LiveCCVideoProcessor()
    width = height * 16 // 9 // 2 * 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_moving_video(path, seconds, width, height)
        spans = [(begin * seconds, begin * seconds + length) for begin, length in CLIPS]
        spans = [(begin, end) for begin, end in spans if end <= seconds][: 2 if run.is_small else None]
        plans = {span: plan_clip(path, *span, video_processor) for span in spans}
        (seek, seek_sums), (full, full_sums) = (
            rates(partial(read, path, video_processor=video_processor), plans, rounds)
            for read in (by_seeking, from_the_start)
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
    }
    ratio = at_least("seeking to reading from the start", report["ratio"], 2)
    return report, [ratio, holds("the same frames", report["equal_frames"])]


if __name__ == "__main__":
    sys.exit(main())
