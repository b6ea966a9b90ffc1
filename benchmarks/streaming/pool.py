"""Measures many streams on one model: side by side in a `CommentaryPool` against one after the other.

    python benchmarks/streaming/pool.py [--model livecc-tiny] [--streams 1 2 4 8 16 24] [--threads 2] [--live-s 20]

Throughput: the same number of streams takes the same turns in a pool's round, and one after the other, each with memory
of its own as a single stream has it; both in turn, so that other work on the machine slows both. The same number of
tokens is generated in every turn. Live: after the pool's warm-up, streams push frames at the clock's pace, their turns
spread over the second, for `--live-s` seconds; a number of streams is held if 95 in 100 turns have their words within a
second of their last frame and no frame is dropped. Each number of streams is a run of its own, until one is not held.
On CUDA the default model has LiveCC-7B's shape with random weights. Exit code 1 where a target is missed.

On a CPU a lone stream wastes little, so that eight at once gain twice the throughput and not more; the pool's gain is
meant for devices that a single stream leaves idle.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import at_least, finish, keep, parser, spread, surroundings
from models import CASES, Case, build_model, bundled_processor, never_end, small

MIN_RATIO_OF_8_ON_CPU = 2.0
MIN_LIVE = {"cpu": 16, "cuda": 24}
MAX_P95_S = 1.0
TURN_S, FIRST_TURN_S = 1.0, 3.0
FILLING_S = 18  # the default window, and the first turn


def make_frames(case: Case, n: int):
    """Return random pictures, uint8 (n, 3, height, width), in the size in which the model sees them."""
    import torch

    height, width = (84, 84) if case.frame_px is None else (448, 672)  # 9 and 384 tokens a pair
    if case.max_pixels < height * width:
        height, width = 84, 112
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def options_of(case: Case):
    """Return the options of all streams."""
    from livecc_hf import StreamOptions

    return StreamOptions(
        do_sample=False, max_new_tokens=case.new_tokens, max_pixels=case.max_pixels, stop_at_continuation=False
    )


def throughput(
    model, processor, case: Case, n_streams: int, n_turns: int, with_alone: bool = True
) -> dict[str, float | None]:
    """Measure turns and tokens a second of both ways, from streams whose window is full."""
    from livecc_hf import CommentaryPool

    frames, options = make_frames(case, 8), options_of(case)
    pool = CommentaryPool(model, processor, n_streams, max_lag_s=3600)
    pooled = [pool.join(options) for _ in range(n_streams)]
    alone = [model.start_stream(processor, options) for _ in range(n_streams if with_alone else 0)]
    side_by_side_s, one_by_one_s = [], []
    for i in range(FILLING_S + n_turns):
        shown = frames[:6] if i == 0 else frames[i % 3 : i % 3 + 2]
        began_s = time.perf_counter()
        for stream in pooled:
            stream.push(shown)
        pool.step()
        between_s = time.perf_counter()
        segments = [segment for stream in alone for segment in stream.push(shown)]
        if i >= FILLING_S:
            side_by_side_s.append(between_s - began_s)
            one_by_one_s.append(time.perf_counter() - between_s)
        segments += [stream.take() for stream in pooled]
        if [len(segment.token_ids) for segment in segments] != (len(alone) + n_streams) * [case.new_tokens]:
            raise AssertionError("a turn is missing or too short")
    round_s, row_s = statistics.median(side_by_side_s), statistics.median(one_by_one_s)
    return {
        "round_s": round_s,
        "turns_per_s": n_streams / round_s,
        "tokens_per_s": n_streams * case.new_tokens / round_s,
        "one_after_the_other_turns_per_s": n_streams / row_s if alone else None,
        "ratio": row_s / round_s if alone else None,
    }


def live(model, processor, case: Case, n_streams: int, seconds: float) -> dict[str, Any]:
    """Run streams at the clock's pace."""
    from livecc_hf import CommentaryPool

    frames, options = make_frames(case, 8), options_of(case)
    with CommentaryPool(model, processor, n_streams, overload="drop", max_lag_s=2.0) as pool:
        pool.warm_up(options, tuple(frames.shape[2:]))
        pool.start()
        streams = [pool.join(options) for _ in range(n_streams)]
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
        latencies_s = list(stats.latencies_s)[n_streams:]  # without the first turns, which are longer
        n_turns, n_dropped = stats.n_turns, stats.n_dropped_frames
    figures = spread(latencies_s or [float("inf")])
    return {
        "p50_s": figures["median"],
        "p95_s": figures["p95"],
        "dropped_frames": n_dropped,
        "turns": n_turns,
        "is_held": figures["p95"] < MAX_P95_S and n_dropped == 0 and n_turns >= n_pushed - n_streams,
    }


def freed() -> None:
    """Give back the memory of a pool that is no longer used, before the next is made."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(case: Case, device: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all numbers of streams."""
    processor = bundled_processor()
    model = build_model(case, processor, device, arguments.small)
    never_end(model, processor)
    found: dict[str, Any] = {"throughput": {}, "live": {}}
    for n in arguments.streams:
        with_alone = n <= arguments.alone_up_to
        found["throughput"][n] = figures = throughput(model, processor, case, n, arguments.turns, with_alone)
        ratio = f", {figures['ratio']:.2f} x one after the other" if with_alone else ""
        print(f"{n:3} streams: {figures['tokens_per_s']:7.0f} tokens/s{ratio}", flush=True)
        keep(arguments, found)
        freed()
    for n in arguments.live_streams or arguments.streams:
        found["live"][n] = figures = live(model, processor, case, n, arguments.live_s)
        keep(arguments, found)
        print(f"{n:3} live: p95 {figures['p95_s']:.3f} s, {figures['dropped_frames']} frames dropped", flush=True)
        freed()
        if not figures["is_held"]:
            break
    found["live_streams_held"] = max((n for n, figures in found["live"].items() if figures["is_held"]), default=0)
    return found


def targets(found: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """Return what must hold and whether it does."""
    asked = [at_least("live streams held", found["live_streams_held"], MIN_LIVE[device])]
    if device == "cpu" and 8 in found["throughput"]:
        ratio = found["throughput"][8]["ratio"]
        asked.append(at_least("8 streams against one after the other", ratio, MIN_RATIO_OF_8_ON_CPU))
    return asked


def main() -> int:
    """Measure and write; 1 where a target is missed."""
    made = parser(__doc__)
    made.add_argument("--model", choices=sorted(CASES), help="default: livecc-tiny, on CUDA livecc-7b")
    made.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24], help="numbers of streams")
    made.add_argument("--live-streams", type=int, nargs="+", help="numbers of live streams; default: the same")
    made.add_argument("--alone-up-to", type=int, default=1000, help="most streams also run one after the other")
    made.add_argument("--turns", type=int, default=30, help="turns timed of each stream")
    made.add_argument("--live-s", type=float, default=20.0, help="seconds of a live run")
    made.add_argument("--threads", type=int, help="of PyTorch; default: its own")
    arguments = made.parse_args()
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = CASES[arguments.model or ("livecc-7b" if device == "cuda" else "livecc-tiny")]
    if arguments.small:
        case = small(case)
        arguments.streams, arguments.live_streams, arguments.turns, arguments.live_s = [2], None, 2, 3.0
    found = measure(case, device, arguments)
    report = {"model": case.name, "new_tokens": case.new_tokens, **found, **surroundings(device)}
    return finish(arguments, report, targets(found, device), "pool_cuda.json" if device == "cuda" else "pool.json")


if __name__ == "__main__":
    sys.exit(main())
