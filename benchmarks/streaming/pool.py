"""Measures many streams on one model: side by side in a `CommentaryPool` against one after the other.

    python benchmarks/streaming/pool.py [--model livecc-tiny] [--streams 1 2 4 8 16] [--threads 2] [--live-s 20]

Throughput: the same number of streams takes the same turns in a pool's round, and one after the other, in turn, so that
other work on the machine slows both; the same number of tokens is generated in every turn. Live: streams push frames
at the clock's pace, their turns spread over the second, for `--live-s` seconds; a number of streams is held if 95 in
100 turns are said within a second of their last frame and no frame is dropped. Each number of streams is a run of its
own, until one is not held. On CUDA the default model has LiveCC-7B's shape with random weights.

`--small` takes two streams and few turns, and writes no file unless told to. Exit code 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import surroundings
from models import CASES, build_model, small
from streaming import RESULTS, rounded

if TYPE_CHECKING:
    from models import Case

MIN_RATIO_OF_8_ON_CPU = 3.0
MIN_LIVE_ON_CUDA = 24
MAX_P95_S = 1.0
TURN_S, FIRST_TURN_S, FRAME_STEP_S = 1.0, 3.0, 0.5


def make_frames(case: Case, n: int):
    """Returns random pictures, uint8 (n, 3, height, width), in the size in which the model sees them."""
    import torch

    height, width = (84, 84) if case.frame_px is None else (448, 672)  # 9 and 384 tokens a pair
    if case.max_pixels < height * width:
        height, width = 84, 112
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def join(pool, case: Case):
    """Returns a new stream of a pool that generates `case.new_tokens` in every turn."""
    stream = pool.join(
        do_sample=False,
        max_new_tokens=case.new_tokens,
        max_pixels=case.max_pixels,
        stop_at_continuation=False,
    )
    stream._stream._chooser.end_ids = frozenset()
    return stream


def throughput(model, processor, case: Case, n_streams: int, n_turns: int) -> dict[str, float]:
    """Measures turns and tokens a second of both ways, from streams whose window is full."""
    from livecc_hf import CommentaryPool

    frames = make_frames(case, 8)
    pool = CommentaryPool(model, processor, n_streams, max_lag_s=3600)
    pooled = [join(pool, case) for _ in range(n_streams)]
    alone_pool = CommentaryPool(model, processor, n_streams, max_lag_s=3600)
    alone = [join(alone_pool, case)._stream for _ in range(n_streams)]
    n_filling = 18  # seconds: the default window's, and the first turn's
    for i in range(n_filling):
        shown = frames[:6] if i == 0 else frames[i % 3 : i % 3 + 2]
        for stream in pooled:
            stream.push(shown)
        pool.step()
        for stream in alone:
            stream.push(shown)
    side_by_side_s, one_by_one_s = [], []
    for i in range(n_turns):
        shown = frames[i % 3 : i % 3 + 2]
        began_s = time.perf_counter()
        for stream in pooled:
            stream.push(shown)
        if pool.step() != n_streams:
            raise AssertionError("a stream had no turn")
        between_s = time.perf_counter()
        for stream in alone:
            stream.push(shown)
        side_by_side_s.append(between_s - began_s)
        one_by_one_s.append(time.perf_counter() - between_s)
    round_s, row_s = statistics.median(side_by_side_s), statistics.median(one_by_one_s)
    return {
        "round_s": round_s,
        "turns_per_s": n_streams / round_s,
        "tokens_per_s": n_streams * case.new_tokens / round_s,
        "one_after_the_other_turns_per_s": n_streams / row_s,
        "ratio": row_s / round_s,
    }


def live(model, processor, case: Case, n_streams: int, seconds: float) -> dict[str, Any]:
    """Runs streams at the clock's pace."""
    from livecc_hf import CommentaryPool

    frames = make_frames(case, 8)
    with CommentaryPool(model, processor, n_streams, overload="drop", max_lag_s=2.0).start() as pool:
        streams = [join(pool, case) for _ in range(n_streams)]
        began_s = time.monotonic()
        due = [(FIRST_TURN_S + TURN_S * i / n_streams, i) for i in range(n_streams)]  # spread over the second
        n_pushed = 0
        while due and due[0][0] < seconds + FIRST_TURN_S:
            at_s, i = due.pop(0)
            time.sleep(max(began_s + at_s - time.monotonic(), 0))
            streams[i].push(frames[:6] if n_pushed < n_streams else frames[:2])
            n_pushed += 1
            due.append((at_s + TURN_S, i))
        time.sleep(MAX_P95_S)
        stats = pool.stats
        latencies_s = sorted(list(stats.latencies_s)[n_streams:])  # without the first turns, which are longer
    p95_s = latencies_s[int(0.95 * (len(latencies_s) - 1))]
    return {
        "p50_s": statistics.median(latencies_s),
        "p95_s": p95_s,
        "dropped_frames": stats.n_dropped_frames,
        "turns": stats.n_turns,
        "is_held": p95_s < MAX_P95_S and stats.n_dropped_frames == 0 and stats.n_turns >= n_pushed - n_streams,
    }


def measure(case: Case, device: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all numbers of streams."""
    from livecc_hf.assets import bundled_model_path
    from livecc_hf.modeling import StreamingProcessor

    processor = StreamingProcessor.from_pretrained(
        bundled_model_path() if case.name == "livecc-tiny" else RESULTS.parents[1] / "tests/data/reference/checkpoint"
    )
    model = build_model(case, processor, device, arguments.small)
    found: dict[str, Any] = {"throughput": {}, "live": {}}
    for n in arguments.streams:
        found["throughput"][n] = throughput(model, processor, case, n, arguments.turns)
        figures = found["throughput"][n]
        print(f"{n:3} streams: {figures['tokens_per_s']:7.0f} tokens/s, {figures['ratio']:.2f} x one after the other")
    for n in arguments.live_streams or arguments.streams:
        found["live"][n] = figures = live(model, processor, case, n, arguments.live_s)
        print(f"{n:3} live: p95 {figures['p95_s']:.3f} s, {figures['dropped_frames']} frames dropped")
        if not figures["is_held"]:
            break
    found["live_streams_held"] = max((n for n, figures in found["live"].items() if figures["is_held"]), default=0)
    return found


def targets(found: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """Returns what must hold and whether it does."""
    if device == "cuda":
        held = found["live_streams_held"]
        return [
            {"name": "live streams", "at_least": MIN_LIVE_ON_CUDA, "found": held, "is_met": held >= MIN_LIVE_ON_CUDA}
        ]
    if 8 not in found["throughput"]:
        return []
    ratio = found["throughput"][8]["ratio"]
    name = "8 streams against one after the other"
    return [{"name": name, "at_least": MIN_RATIO_OF_8_ON_CPU, "found": ratio, "is_met": ratio >= MIN_RATIO_OF_8_ON_CPU}]


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(CASES), help="default: livecc-tiny, on CUDA livecc-7b")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers of streams")
    parser.add_argument("--live-streams", type=int, nargs="+", help="numbers of live streams; default: the same")
    parser.add_argument("--turns", type=int, default=30, help="turns timed of each stream")
    parser.add_argument("--live-s", type=float, default=20.0, help="seconds of a live run")
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/pool.json, or pool_cuda.json")
    parser.add_argument("--small", action="store_true", help="two streams and few turns, to see that it works")
    arguments = parser.parse_args()
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = CASES[arguments.model or ("livecc-7b" if device == "cuda" else "livecc-tiny")]
    if arguments.small:
        case = small(case)
        arguments.streams, arguments.live_streams, arguments.turns, arguments.live_s = [2], None, 2, 3.0
    found = measure(case, device, arguments)
    found["targets"] = targets(found, device)
    output = arguments.output
    if output is None and not arguments.small:
        output = RESULTS / ("pool_cuda.json" if device == "cuda" else "pool.json")
    if output is not None:
        whole = {"model": case.name, "new_tokens": case.new_tokens, **found, **surroundings(device)}
        output.write_text(json.dumps(rounded(whole), indent=1) + "\n")
    return 0 if all(target["is_met"] for target in found["targets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
