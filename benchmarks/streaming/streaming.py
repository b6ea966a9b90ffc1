"""Measures commentary turn by turn: this engine against LiveCC's demonstration.

    python benchmarks/streaming/streaming.py [--models livecc-tiny mid-size livecc-7b] [--threads 2] [--output FILE]
    python benchmarks/streaming/streaming.py --backbones qwen2_vl qwen2_5_vl qwen3_vl

Three sides with the same weights, frames and number of generated tokens take each turn one after the other, in changing
order, so that other work on the machine slows all of them: `engine`, our stream without eviction; `engine_windowed`,
with the default sliding window; and `generate`, the demonstration on transformers' own model and processor of the
backbone, see `streaming_sides.py`. Decoding is greedy with a repetition penalty.

A turn is timed from its decoded frames, 2 a second, to its last token. Its parts: `resize` (to size, and to patches),
`evict`, `vision`, `prefill` (without vision), `decode_tokens`, `rest` (tokenising, sampling, text). The first turn,
which is longer, is left out of all figures.

All sides must generate the same tokens, except in two cases. Backbones other than Qwen2-VL have 3-D positions in every
turn, as in their training, and the demonstration has them in the first turn only: only that is compared. In bfloat16
(`mid-size-bf16`, which evicts as on a GPU, from keys as first computed) rounding makes tokens differ.

The 7B shape runs on CUDA only. `--small` runs every model with tiny shapes and few turns on any device.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from statistics import median
from typing import Annotated, Any

import torch
from transformers.utils import logging

sys.path.insert(1, f"{sys.path[0]}/..")
import streaming_sides as sides
from harness import Measured, Run, at_most, benchmark, holds, spread
from models import CASES, Case, backbone_case, build_model, turns_of, weights_floor
from streaming_sides import TurnTimes

from livecc_hf.modeling.backbones import BACKBONES

WINDOW_TURNS = 10  # turns in the median of a stretch of a stream
SIDES = ("engine", "engine_windowed", "generate")

# Targets by model, as ratios to `generate`.
MAX_RATIO = {"livecc-tiny": 0.62, "livecc-tiny-plain": 0.80, "mid-size": 0.75}
MAX_RATIO |= {f"mid-size-{name}": 0.75 for name in BACKBONES}
MAX_WINDOWED_RATIO = {"mid-size": 0.36} | {f"mid-size-{name}": 0.40 for name in BACKBONES}
MAX_EVICT_SHARE = 0.05  # of windowed turns with a full window
MAX_GROWTH, GROWTH_TURNS = 1.1, 240  # before, the window's text is still filling up
MAX_MEDIAN_S, MAX_P99_S, MAX_DECODE_RATIO = 0.12, 0.2, 2.0


def measure(case: Case, run: Run, done: dict[str, Any]) -> dict[str, Any]:
    """Run all sides of a case, turn by turn, and compare them; `done` has the figures of the cases before."""
    model, processor = build_model(case, run)
    clock = sides.Clock(torch.device(run.device))
    ours = case, model, processor, clock
    ways = {
        "engine": sides.EngineSide(*ours, window="none"),
        "engine_windowed": sides.EngineSide(*ours, vision_window_s=case.vision_window_s),
        "generate": sides.StockSide(*ours),
    }
    for side in ways.values():  # warm up
        for frames in islice(turns_of(case), 2):
            side.turn(frames)
        side.reset()
    times: dict[str, list[TurnTimes]] = {name: [] for name in ways}
    for turn, frames in enumerate(islice(turns_of(case), max(case.turns, case.windowed_turns))):
        for name in SIDES[turn % 3 :] + SIDES[: turn % 3]:
            if turn < (case.windowed_turns if name == "engine_windowed" else case.turns):
                with ways[name].timed():
                    times[name].append(clock.measure(partial(ways[name].turn, frames)))
        if turn % 20 == 19:
            figures = {"sides": {name: side_figures(turns) for name, turns in times.items()}}
            run.tell(f"  turn {turn + 1}", {"models": done | {case.name: figures}})
    found = compare(case, times) | {"parameters": model.num_parameters()}
    return found | (weights_floor(model) if run.on_cuda else {})


def compare(case: Case, times: dict[str, list[TurnTimes]]) -> dict[str, Any]:
    """Return the figures of all sides and their ratios, in wall time and (`_cpu`) in this process's CPU time."""
    ours, windowed, other = (times[name] for name in SIDES)
    tokens = [(mine.token_ids, its.token_ids) for mine, its in zip(ours, other, strict=True)]
    if any(len(mine) != len(its) for mine, its in tokens):
        raise AssertionError("a turn has more tokens on one side")
    compared = tokens if case.scheme == "reference" else tokens[:1]  # positions differ after it
    n_same = sum(mine == its for mine, its in compared)
    last = slice(max(len(ours) - WINDOW_TURNS, 1), len(ours))
    ours_s, windowed_s, other_s = ([turn.turn_s for turn in times[name]] for name in SIDES)
    found = {
        "case": asdict(case),
        "same_tokens": n_same == len(compared),
        "turns_compared": len(compared),
        "turns_with_the_same_tokens": n_same,
        "sides": {name: side_figures(turns) for name, turns in times.items()},
        "engine_to_generate": sum(ours_s[1:]) / sum(other_s[1:]),
        "engine_to_generate_cpu": sum(t.cpu_s for t in ours[1:]) / sum(t.cpu_s for t in other[1:]),
        "windowed_to_generate_last_turns": median(windowed_s[last]) / median(other_s[last]),
        "windowed_evict_share_last_turns": sum(t.parts_s["evict"] for t in windowed[last]) / sum(windowed_s[last]),
    }
    if len(windowed) >= GROWTH_TURNS:
        found["windowed_growth"] = median(windowed_s[-WINDOW_TURNS:]) / median(windowed_s[20 : 20 + WINDOW_TURNS])
    return found


def side_figures(turns: Sequence[TurnTimes]) -> dict[str, Any]:
    """Return the figures of one side over all turns except the first: times of turns, and the median of each part."""
    later = turns[1:]
    parts_s = {part: median(turn.parts_s[part] for turn in later) for part in sides.PARTS}
    return {"turns": len(turns), "turn_s": spread([turn.turn_s for turn in later]), "parts_s": parts_s}


def targets(case: Case, result: dict[str, Any], on_cuda: bool) -> list[dict[str, Any]]:
    """Return the targets of a model."""
    name = case.name
    asked = [
        ("evicting's share of windowed turns, last ten", result["windowed_evict_share_last_turns"], MAX_EVICT_SHARE)
    ]
    if not on_cuda and name in MAX_RATIO:
        asked.append(("turn time to generate's, all turns", result["engine_to_generate"], MAX_RATIO[name]))
    if not on_cuda and name in MAX_WINDOWED_RATIO:
        ratio = result["windowed_to_generate_last_turns"]
        asked.append(("windowed turn time to generate's, last ten turns", ratio, MAX_WINDOWED_RATIO[name]))
    if growth := result.get("windowed_growth"):
        asked.append(("windowed turn time, last ten turns to turns 21 to 30", growth, MAX_GROWTH))
    if name == "livecc-7b":
        side = result["sides"]["engine_windowed"]
        asked.append(("windowed turn, median seconds", side["turn_s"]["median"], MAX_MEDIAN_S))
        asked.append(("windowed turn, 99th percentile in seconds", side["turn_s"]["p99"], MAX_P99_S))
        if on_cuda:
            ratio = side["parts_s"]["decode_tokens"] / (case.new_tokens - 1) / result["weights_over_bandwidth_s"]
            asked.append(("windowed decode per token to weights over bandwidth", ratio, MAX_DECODE_RATIO))
    found = [at_most(f"{name}: {what}", measured, limit) for what, measured, limit in asked]
    return found if case.bf16 else [*found, holds(f"{name}: the same tokens as generate", result["same_tokens"])]


@benchmark("streaming.json", runs_model=True)
def main(
    run: Run,
    models: Annotated[tuple[str, ...], "models to run", CASES] = tuple(CASES),
    backbones: Annotated[tuple[str, ...], "run the mid-size shape on these, and no other model", BACKBONES] = (),
) -> Measured:
    """Measure all sides of each model."""
    logging.disable_progress_bar()
    results: dict[str, dict[str, Any]] = {}
    asked = []
    for case in [*map(backbone_case, backbones)] or [CASES[name] for name in models]:
        name, case = case.name, case.small() if run.is_small else case
        if name == "livecc-7b" and not run.on_cuda and not run.is_small:
            run.tell("livecc-7b: skipped, no CUDA device is used; --small runs the same code with a tiny model")
            continue
        run.tell(f"{name}:")
        results[name] = found = measure(case, run, results)
        asked += targets(case, found, run.on_cuda)
        for side, figures in found["sides"].items():
            parts = {"turn": figures["turn_s"]["median"]} | figures["parts_s"]
            run.tell(f"  {side}: " + ", ".join(f"{part} {1000 * seconds:.1f} ms" for part, seconds in parts.items()))
    run.file = "streaming-backbones.json" if backbones else run.file
    return {"models": results}, asked
