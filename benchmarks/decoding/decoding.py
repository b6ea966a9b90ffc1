"""CPU time of reading synthetic H.264 videos: what a live stream samples, and the clips of training.

    python benchmarks/decoding/decoding.py [--seconds 300] [--output FILE]

The package decodes only what the sampled frames need: it skips packets of a 1080p file that it reads as a live stream
does, and seeks to each clip of a 720p file. The other side decodes every frame with the same library, for clips from
the start of the file, and keeps the same frames. About 10 minutes on 2 idle cores, most of it for encoding.
"""

import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import torch

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import Measured, Run, at_least, benchmark, holds, times_of

from livecc_hf.data.media.clip_frames import plan_clip, read_clip, resize_frame
from livecc_hf.modeling import LiveCCVideoProcessor, video_sampling
from livecc_hf.video import reader

FPS, ENCODED_S, LIVE_S = 30, 10, 30
LIVE = {"h264_default": {"preset": "medium"}, "h264_intra_only": {"preset": "veryfast", "g": "1"}}  # options of x264
# Start as a share of the file's length, and length in seconds.
CLIPS = ((0.0, 30), (0.1, 45), (0.25, 60), (0.4, 30), (0.55, 45), (0.7, 60), (0.8, 45), (0.9, 30))
Frames = Iterable[torch.Tensor]
Read = Callable[[], Frames]


def write_video(path: Path, seconds: int, height: int, options: dict[str, str]) -> None:
    """Write a panning, grainy 16:9 picture as H.264; only `ENCODED_S` seconds are encoded, and repeated."""
    width, rng = height * 16 // 9 // 2 * 2, np.random.default_rng(0)
    scene = np.full((height, width), 128.0)
    for grain_px, gain in ((64, 50), (16, 30), (4, 15), (2, 8)):
        noise = rng.normal(128, gain, (-(-height // grain_px), -(-width // grain_px))).clip(0, 255).astype(np.uint8)
        scene += av.VideoFrame.from_ndarray(noise, format="gray").reformat(width, height).to_ndarray() - 128.0
    picture = av.VideoFrame.from_ndarray(scene.clip(16, 235).astype(np.uint8), format="gray")
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=picture.format, time_base=Fraction(1, FPS))
    filters = {"loop": "loop=-1:size=1", "scroll": "h=0.002:v=0.001", "noise": "alls=6:allf=t", "format": "yuv420p"}
    sink = graph.add("buffersink")
    graph.link_nodes(source, *(graph.add(*each) for each in filters.items()), sink).configure()
    source.push(picture)
    source.push(None)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS, options=options)
        video.width, video.height, video.pix_fmt, n_encoded = width, height, "yuv420p", min(seconds, ENCODED_S) * FPS
        packets = []
        for index in range(n_encoded):
            frame: Any = sink.pull()
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            packets += video.encode(frame)
        packets += video.encode(None)
        for number in range(-(-seconds // ENCODED_S)):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts = (at + number * n_encoded for at in (packet.pts, packet.dts))
                again.time_base, again.is_keyframe, again.stream = packet.time_base, packet.is_keyframe, video
                container.mux(again)


def compare(ours: Read, other: Read, rounds: int) -> tuple[float, float, bool]:
    """Return the least CPU seconds of both ways to read frames, run alternately, and whether the frames are equal."""
    took_s: list[list[float]] = [[], []]
    for _ in range(rounds):
        sums = []
        for read, times_s in zip((ours, other), took_s, strict=True):
            _, cpu_s, frames = times_of(lambda read=read: list(read()))
            times_s.append(cpu_s)
            sums.append([zlib.crc32(frame.numpy()) for frame in frames])
    return min(took_s[0]), min(took_s[1]), sums[0] == sums[1]


def sampled(read: Callable[..., Iterable[Any]], path: Path) -> Frames:
    """Yield the frames that a live stream of a file sees."""
    return (each.frame for each in read(path, fps=2))


def ways_of_clip(path: Path, start_s: float, end_s: float) -> tuple[Read, Read]:
    """Return two functions that return a clip's frames: by seeking, as in training, and decoding all up to its end."""
    video_processor = LiveCCVideoProcessor()
    plan = plan_clip(path, start_s, end_s, video_processor)

    def from_the_start() -> Frames:
        frames = video_sampling.iter_frames(path, plan.first_s, origin_s=plan.origin_s)
        return (resize_frame(each.frame, plan, video_processor) for each in islice(frames, plan.n_sampled))

    return lambda: read_clip(path, plan, video_processor).frames, from_the_start


@benchmark("decoding.json", "av", "torch", small={"seconds": 60, "live_px": 90, "clip_px": 90, "rounds": 1})
def main(
    run: Run,
    seconds: Annotated[int, "length of the file with clips"] = 300,
    live_px: Annotated[int, "height of the files read live"] = 1080,
    clip_px: Annotated[int, "height of the file with clips"] = 720,
    rounds: Annotated[int, "rounds of each live file, of which the fastest counts"] = 3,
) -> Measured:
    """Read all videos in both ways."""
    torch.set_num_threads(1)
    report: dict[str, Any] = {"rounds": rounds, "live_s": LIVE_S, "live_px": live_px, "clip_px": clip_px, "live": {}}
    are_equal = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for name, options in LIVE.items():
            write_video(path, LIVE_S, live_px, options)
            ours, other = (partial(sampled, read, path) for read in (reader.iter_frames, video_sampling.iter_frames))
            ours_s, other_s, is_equal = compare(ours, other, rounds)
            figures = {"video_s_per_cpu_s": LIVE_S / ours_s, "cpu_s": ours_s, "every_frame_cpu_s": other_s}
            report["live"][name] = figures | {"ratio": other_s / ours_s}
            are_equal.append(is_equal)
            run.tell(f"{name}: {report['live'][name]}")
        write_video(path, seconds, clip_px, {"preset": "veryfast", "g": "250"})
        spans = [(begin * seconds, begin * seconds + length) for begin, length in CLIPS]
        clips = [compare(*ways_of_clip(path, *span), 1) for span in spans if span[1] <= seconds]
    are_equal += [is_equal for *_, is_equal in clips]
    cpu_s, full_file_cpu_s = (sum(clip[way] for clip in clips) for way in (0, 1))
    report["clips"] = {"n": len(clips), "clips_per_cpu_s": len(clips) / cpu_s, "cpu_s": cpu_s}
    report["clips"] |= {"full_file_cpu_s": full_file_cpu_s, "ratio": full_file_cpu_s / cpu_s}
    return report, [
        at_least("seconds of live video in a second", report["live"]["h264_default"]["video_s_per_cpu_s"], 1),
        at_least("seeking clips to reading from the start", report["clips"]["ratio"], 2),
        holds("the same frames", all(are_equal)),
    ]
