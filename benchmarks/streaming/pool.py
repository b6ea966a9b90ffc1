"""Measures many streams on one model: together in a `CommentaryPool` against one after the other, and in real time.

    python benchmarks/streaming/pool.py [--model livecc-tiny] [--streams 1 2 4 8 16 24] [--threads 2] [--live-s 20]

Throughput: the same streams take the same turns in a pool's round, and one after the other with caches of their own;
both alternate, so that other work on the machine slows both. Every turn generates the same number of tokens.

Live: streams push frames in real time, their turns spread over each second. A number of streams is held if 95% of the
turns have their words within a second of their last frame and no frame is dropped. Numbers below the target are tried
only if there is no larger one, and larger ones until one is not held.

On CUDA the default model has LiveCC-7B's shape with random weights. On a CPU a single stream leaves little idle.
"""

import gc
import sys
import time
from statistics import median
from typing import Annotated, Any

import torch

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import Measured, Run, at_least, benchmark, spread, times_of
from models import CASES, Case, build_model, greedy_options, never_end, seen_frames

from livecc_hf import CommentaryPool

MIN_RATIO_OF_8_ON_CPU = 2.0
MIN_LIVE = {"cpu": 16, "cuda": 24}
MAX_ALONE_ON_CUDA = 8  # streams one after the other, which take long
MAX_P95_S = 1.0
TURN_S, FIRST_TURN_S = 1.0, 3.0
FILLING_S = 18  # the default window, and the first turn


def throughput(model, processor, case: Case, n: int, n_turns: int, with_alone: bool) -> dict[str, float | None]:
    """Measure rounds of `n` streams with full windows, in a pool and one after the other."""
    gc.collect()  # an unused pool is freed before the next is made
    torch.cuda.empty_cache()
    frames, options = seen_frames(case, 8), greedy_options(case)
    pool = CommentaryPool(model, processor, n, max_lag_s=3600)
    pooled = [pool.join(options) for _ in range(n)]
    alone = [model.start_stream(processor, options) for _ in range(n if with_alone else 0)]

    def one_round(shown: torch.Tensor) -> None:
        for stream in pooled:
            stream.push(shown)
        pool.step()

    times_s: list[tuple[float, float]] = []
    for i in range(FILLING_S + n_turns):
        shown = frames[:6] if i == 0 else frames[i % 3 : i % 3 + 2]
        round_s, _, _ = times_of(one_round, shown)
        row_s, _, segments = times_of(lambda shown=shown: [said for stream in alone for said in stream.push(shown)])
        times_s.append((round_s, row_s))
        segments += [stream.take() for stream in pooled]
        if [len(segment.token_ids) for segment in segments] != (len(alone) + n) * [case.new_tokens]:
            raise AssertionError("a turn is missing or too short")
    round_s, row_s = (median(times) for times in zip(*times_s[FILLING_S:], strict=True))
    ratio = row_s / round_s if alone else None
    return {"round_s": round_s, "tokens_per_s": n * case.new_tokens / round_s, "ratio": ratio}


def live(model, processor, case: Case, n_streams: int, seconds: float) -> dict[str, Any]:
    """Run streams in real time."""
    gc.collect()  # an unused pool is freed before the next is made
    torch.cuda.empty_cache()
    frames, options = seen_frames(case, 8), greedy_options(case)
    with CommentaryPool(model, processor, n_streams, overload="drop", max_lag_s=2.0) as pool:
        pool.warm_up(options, (frames.shape[2], frames.shape[3]))
        pool.start()
        streams = [pool.join(options) for _ in range(n_streams)]
        began_s, n_pushed = time.monotonic(), 0
        while (at_s := FIRST_TURN_S + TURN_S * n_pushed / n_streams) < seconds + FIRST_TURN_S:
            time.sleep(max(began_s + at_s - time.monotonic(), 0))
            streams[n_pushed % n_streams].push(frames[:6] if n_pushed < n_streams else frames[:2])
            n_pushed += 1
        time.sleep(MAX_P95_S)
        stats = pool.stats
        latencies_s = list(stats.latencies_s)[n_streams:]  # without the first turns, which are longer
        found: dict[str, Any] = {"turns": stats.n_turns, "dropped_frames": stats.n_dropped_frames}
    found["p95_s"] = spread(latencies_s or [float("inf")])["p95"]
    is_complete = found["dropped_frames"] == 0 and found["turns"] >= n_pushed - n_streams
    return found | {"is_held": is_complete and found["p95_s"] < MAX_P95_S}


@benchmark("pool.json", runs_model=True, small={"streams": [2], "turns": 2, "live_s": 3.0})
def main(
    run: Run,
    model: Annotated[str | None, "model to run; default: livecc-tiny, on CUDA livecc-7b", CASES] = None,
    streams: Annotated[tuple[int, ...], "numbers of streams"] = (1, 2, 4, 8, 16, 24),
    turns: Annotated[int, "measured turns of each stream"] = 30,
    live_s: Annotated[float, "seconds of a live run"] = 20.0,
) -> Measured:
    """Measure all numbers of streams."""
    case = CASES[model or ("livecc-7b" if run.on_cuda else "livecc-tiny")]
    case = case.small() if run.is_small else case
    loaded, processor = build_model(case, run)
    never_end(loaded, processor)
    found: dict[str, Any] = {"model": case.name, "new_tokens": case.new_tokens, "throughput": {}, "live": {}}
    for n in streams:
        with_alone = n <= MAX_ALONE_ON_CUDA or not run.on_cuda
        figures = found["throughput"][n] = throughput(loaded, processor, case, n, turns, with_alone)
        ratio = f", {figures['ratio']:.2f} x one after the other" if figures["ratio"] else ""
        run.tell(f"{n:3} streams: {figures['tokens_per_s']:7.0f} tokens/s{ratio}", found)
    min_live = MIN_LIVE["cuda" if run.on_cuda else "cpu"]
    found["live_streams_held"] = 0
    for n in [n for n in streams if n >= min_live] or streams[-1:]:
        figures = found["live"][n] = live(loaded, processor, case, n, live_s)
        run.tell(f"{n:3} live: p95 {figures['p95_s']:.3f} s, {figures['dropped_frames']} frames dropped", found)
        if not figures["is_held"]:
            break
        found["live_streams_held"] = n
    asked = [at_least("live streams held", found["live_streams_held"], min_live)]
    if not run.on_cuda and 8 in found["throughput"]:
        ratio = found["throughput"][8]["ratio"]
        asked.append(at_least("8 streams against one after the other", ratio, MIN_RATIO_OF_8_ON_CPU))
    return found, asked
