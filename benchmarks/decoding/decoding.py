"""Measures how many clips a core decodes per second: by seeking, against reading the file from its start.

    python benchmarks/decoding/decoding.py [--height 720] [--seconds 300] [--output FILE]

Both use the same library, keep the same frames and resize them in the same way; their results are compared. The video
is synthetic: a moving textured picture, H.264 with a key frame every 250 frames. Rates per core are of CPU time, which
other work on the machine affects less.
"""

import sys
import tempfile
import zlib
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_least, benchmark, holds, times_of
from videos import FPS, GOP, use_cores, width_of, write_moving_video

# Start as a share of the file's length, and length in seconds.
CLIPS = ((0.0, 30), (0.1, 45), (0.25, 60), (0.4, 30), (0.55, 45), (0.7, 60), (0.8, 45), (0.9, 30))


def by_seeking(path: Path, plan, video_processor):
    """Read a clip as training does."""
    from livecc_hf.data.media.clip_frames import read_clip

    return read_clip(path, plan, video_processor).frames


def from_the_start(path: Path, plan, video_processor):
    """Read a clip without seeking: decode all frames up to its end, then keep and resize the same ones."""
    import torch

    from livecc_hf.data.media.clip_frames import resize_frame
    from livecc_hf.modeling.video_sampling import iter_frames

    with closing(iter_frames(path, plan.first_s, origin_s=plan.origin_s)) as sampled:
        frames = islice(sampled, plan.n_sampled)
        return torch.stack([resize_frame(each.frame, plan, video_processor) for each in frames])


@benchmark("decoding.json", "av", "torch", small={"height": 90})
def main(
    run: Run,
    height: Annotated[int, "height of the video in pixels, 16:9"] = 720,
    seconds: Annotated[int, "length of the video"] = 300,
    rounds: Annotated[int, "rounds, of which the fastest counts"] = 1,
) -> Measured:
    """Read all clips in both ways."""
    use_cores(1)
    from livecc_hf.data.media.clip_frames import plan_clip
    from livecc_hf.modeling import LiveCCVideoProcessor

    video_processor = LiveCCVideoProcessor()
    rates: dict[str, dict[str, float]] = {}
    sums = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_moving_video(path, seconds, height)
        spans = [(begin * seconds, begin * seconds + length) for begin, length in CLIPS]
        spans = [(begin, end) for begin, end in spans if end <= seconds][: 2 if run.is_small else None]
        plans = [plan_clip(path, *span, video_processor) for span in spans]
        for name, read in (("seek", by_seeking), ("full_file", from_the_start)):
            took = [[times_of(read, path, plan, video_processor) for plan in plans] for _ in range(rounds)]
            cpu_s, wall_s = min((sum(cpu_s for _, cpu_s, _ in one), sum(wall_s for wall_s, *_ in one)) for one in took)
            rates[name] = {"clips_per_s_per_core": len(plans) / cpu_s, "cpu_s": cpu_s, "wall_s": wall_s}
            rates[name]["video_s_per_s_per_core"] = sum(end - begin for begin, end in spans) / cpu_s
            sums.append([zlib.crc32(frames.numpy()) for *_, frames in took[0]])
        size_mb = path.stat().st_size / 1e6
    report: dict[str, Any] = rates | {
        "ratio": rates["seek"]["clips_per_s_per_core"] / rates["full_file"]["clips_per_s_per_core"],
        "equal_frames": sums[0] == sums[1],
        "clips_s": spans,
        "frame_px": [[plan.height_px, plan.width_px] for plan in plans],
        "video": f"{width_of(height)}x{height}, {FPS} fps, H.264, key frame every {GOP}, {seconds} s, {size_mb:.0f} MB",
        "threads": 1,
    }
    ratio = at_least("seeking to reading from the start", report["ratio"], 2)
    return report, [ratio, holds("the same frames", report["equal_frames"])]
