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

import gc
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_least, benchmark, spread, times_of
from models import CASES, Case, build_model, bundled_processor, never_end

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


def throughput(model, processor, case: Case, n: int, n_turns: int, with_alone: bool) -> dict[str, float | None]:
    """Measure turns and tokens a second of `n` streams both ways, from streams whose window is full."""
    from livecc_hf import CommentaryPool

    frames, options = make_frames(case, 8), options_of(case)
    pool = CommentaryPool(model, processor, n, max_lag_s=3600)
    pooled = [pool.join(options) for _ in range(n)]
    alone = [model.start_stream(processor, options) for _ in range(n if with_alone else 0)]

    def side_by_side(shown) -> None:
        for stream in pooled:
            stream.push(shown)
        pool.step()

    times_s: list[tuple[float, float]] = []
    for i in range(FILLING_S + n_turns):
        shown = frames[:6] if i == 0 else frames[i % 3 : i % 3 + 2]
        round_s, _, _ = times_of(side_by_side, shown)
        row_s, _, segments = times_of(lambda shown=shown: [said for stream in alone for said in stream.push(shown)])
        times_s.append((round_s, row_s))
        segments += [stream.take() for stream in pooled]
        if [len(segment.token_ids) for segment in segments] != (len(alone) + n) * [case.new_tokens]:
            raise AssertionError("a turn is missing or too short")
    round_s, row_s = (median(times) for times in zip(*times_s[FILLING_S:], strict=True))
    return {
        "round_s": round_s,
        "turns_per_s": n / round_s,
        "tokens_per_s": n * case.new_tokens / round_s,
        "one_after_the_other_turns_per_s": n / row_s if alone else None,
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


@benchmark("pool.json", runs_model=True, small={"streams": [2], "turns": 2, "live_s": 3.0})
def main(
    run: Run,
    model: Annotated[str | None, "which; default: livecc-tiny, on CUDA livecc-7b", CASES] = None,
    streams: Annotated[list[int], "numbers of streams"] = (1, 2, 4, 8, 16, 24),
    live_streams: Annotated[list[int], "numbers of live streams; default: the same"] = (),
    alone_up_to: Annotated[int, "most streams also run one after the other"] = 1000,
    turns: Annotated[int, "turns timed of each stream"] = 30,
    live_s: Annotated[float, "seconds of a live run"] = 20.0,
) -> Measured:
    """Measure all numbers of streams."""
    kind = run.device.partition(":")[0]
    case = CASES[model or ("livecc-7b" if kind == "cuda" else "livecc-tiny")]
    case = case.small() if run.is_small else case
    processor = bundled_processor()
    loaded = build_model(case, processor, run.device, run.is_small)
    never_end(loaded, processor)
    found: dict[str, Any] = {"model": case.name, "new_tokens": case.new_tokens, "throughput": {}, "live": {}}
    for n in streams:
        figures = found["throughput"][n] = throughput(loaded, processor, case, n, turns, n <= alone_up_to)
        ratio = f", {figures['ratio']:.2f} x one after the other" if figures["ratio"] else ""
        print(f"{n:3} streams: {figures['tokens_per_s']:7.0f} tokens/s{ratio}", flush=True)
        run.keep(found)
        freed()
    for n in live_streams or streams:
        figures = found["live"][n] = live(loaded, processor, case, n, live_s)
        run.keep(found)
        print(f"{n:3} live: p95 {figures['p95_s']:.3f} s, {figures['dropped_frames']} frames dropped", flush=True)
        freed()
        if not figures["is_held"]:
            break
    found["live_streams_held"] = max((n for n, figures in found["live"].items() if figures["is_held"]), default=0)
    asked = [at_least("live streams held", found["live_streams_held"], MIN_LIVE[kind])]
    if kind == "cpu" and 8 in found["throughput"]:
        ratio = found["throughput"][8]["ratio"]
        asked.append(at_least("8 streams against one after the other", ratio, MIN_RATIO_OF_8_ON_CPU))
    return found, asked


if __name__ == "__main__":
    sys.exit(main())
