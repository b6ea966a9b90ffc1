"""Measures commentary turn by turn: this engine against LiveCC's demonstration.

    python benchmarks/streaming/streaming.py [--models livecc-tiny mid-size livecc-7b] [--threads 2] [--output FILE]
    python benchmarks/streaming/streaming.py --backbones qwen2_vl qwen2_5_vl qwen3_vl

Three sides with the same weights, frames and number of generated tokens take each turn one after the other, in changing
order, so that other work on the machine slows all of them: `engine`, our stream without eviction; `engine_windowed`,
with the default sliding window; and `generate`, LiveCC's demonstration on the installed transformers, with Qwen2-VL's
own model and processor, one processor call and one `generate` a turn over a `DynamicCache` that is kept. Our sides run
in the position scheme ``reference``, which has the demonstration's positions, so that both must generate the same
tokens. Decoding is greedy with a repetition penalty of 1.05.

A turn is timed from its decoded frames, 2 a second, to its last token. Its parts: `resize` (to size, and to patches),
`evict` (tokens that left the window), `vision`, `prefill` (without vision), `decode_tokens` (generated tokens), `rest`
(tokenising, sampling, text). The first turn, which is longer, is left out of all figures.

`--backbones` measures the mid-size shape against each backbone's own model and processor, which also writes Qwen3-VL's
times into the prompt. Only Qwen2-VL has the demonstration's positions. On the others our positions are 3-D in every
turn, as in their training, and those of `generate` in the first turn only: in later turns just the number of tokens is
compared. `mid-size-bf16` has all sides in bfloat16, as on a GPU: eviction then starts from keys as first computed, and
rounding makes tokens differ, so they need not be equal.

The 7B shape runs on CUDA only and is skipped elsewhere. `--small` runs every model with tiny shapes and few turns on
any device and compares tokens only. Exit code 1 if tokens differ or a target is missed.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import streaming_sides as sides
import torch
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_most, benchmark, holds, spread
from models import CASES, Case, Video, backbone_case, build_model, weights_floor

from livecc_hf.checkpoints.shapes import shape_processor
from livecc_hf.modeling.backbones import BACKBONES

WINDOW_TURNS = 10  # turns in the median of a stretch of a stream
SIDES = ("engine", "engine_windowed", "generate")

# Targets by model, as ratios to `generate`. Half of a turn of livecc-tiny (30 ms) is the model's own linear layers and
# attention kernels, the same on all sides. Quiet runs on one machine gave it 0.62 to 0.65.
MAX_RATIO = {"livecc-tiny": 0.66, "mid-size": 0.75} | {f"mid-size-{name}": 0.75 for name in BACKBONES}
MAX_WINDOWED_RATIO = {"mid-size": 0.36} | {f"mid-size-{name}": 0.40 for name in BACKBONES}
MAX_EVICT_SHARE = 0.05  # of windowed turns with a full window
MAX_GROWTH, GROWTH_TURNS = 1.1, 240
MAX_MEDIAN_S, MAX_P99_S, MAX_DECODE_RATIO = 0.12, 0.2, 2.0
Turns = dict[int, sides.TurnTimes]


def measure(case: Case, run: Run, tell: Callable[[str, dict[str, Any]], None]) -> dict[str, Any]:
    """Run all sides of a case, turn by turn, and compare them; `tell` reports figures on the way."""
    processor = shape_processor(case.backbone)
    model = build_model(case, processor, run.device, run.is_small)
    clock = sides.Clock(torch.device(run.device))
    ours = case, model, processor, clock
    ways = {
        "engine": sides.EngineSide(*ours, window="none"),
        "engine_windowed": sides.EngineSide(*ours, vision_window_s=case.vision_window_s),
        "generate": sides.StockSide(*ours),
    }
    video = Video(case)
    for side in ways.values():  # warm up
        for turn in range(2):
            side.turn(video.clip(turn))
        side.reset()
    times: dict[str, Turns] = {name: {} for name in ways}
    for turn in range(max(case.turns, case.windowed_turns)):
        for name in SIDES[turn % 3 :] + SIDES[: turn % 3]:
            if turn < (case.windowed_turns if name == "engine_windowed" else case.turns):
                with ways[name].timed():
                    times[name][turn] = clock.measure(partial(ways[name].turn, video.clip(turn)))
        if turn % 20 == 19:
            tell(f"  turn {turn + 1}", {name: side_figures(turns) for name, turns in times.items() if len(turns) > 1})
    found = compare(case, times)
    if run.on_cuda:
        found |= weights_floor(model)
        token_s = {name: side["decode_per_token_s"]["median"] for name, side in found["sides"].items()}
        floor_s = found["weights_over_bandwidth_s"]
        found["decode_per_token_to_that"] = {name: seconds / floor_s for name, seconds in token_s.items()}
    counts = {"parameters": model.num_parameters(), "video_tokens_per_turn": ways["engine"].n_video_tokens}
    return found | counts


def compare(case: Case, times: dict[str, Turns]) -> dict[str, Any]:
    """Return the figures of all sides and their ratios, in wall time and (`_cpu`) in this process's CPU time."""
    ours, windowed, other = (times[name] for name in SIDES)
    both = sorted(set(ours) & set(other) - {0})
    last = both[-WINDOW_TURNS:]
    compared = [0, *both] if case.scheme == "reference" else [0]  # positions differ after it
    n_same = sum(ours[turn].token_ids == other[turn].token_ids for turn in compared)
    if any(len(ours[turn].token_ids) != len(other[turn].token_ids) for turn in [0, *both]):
        raise AssertionError("a turn has more tokens on one side")
    evicting_s = sum(windowed[turn].parts_s["evict"] for turn in last)
    result = {
        "case": asdict(case),
        "same_tokens": n_same == len(compared),
        "turns_compared": len(compared),
        "turns_with_the_same_tokens": n_same,
        "windowed_evict_share_last_turns": evicting_s / sum(windowed[turn].turn_s for turn in last),
        "sides": {name: side_figures(turns) for name, turns in times.items()},
    }
    early, late = range(20, 20 + WINDOW_TURNS), range(len(windowed) - WINDOW_TURNS, len(windowed))
    for suffix, field in (("", "turn_s"), ("_cpu", "cpu_s")):
        mine, its, stock = ({turn: getattr(t, field) for turn, t in side.items()} for side in (ours, windowed, other))
        result[f"engine_to_generate{suffix}"] = sum(mine[turn] for turn in both) / sum(stock[turn] for turn in both)
        ratio = median(its[turn] for turn in last) / median(stock[turn] for turn in last)
        result[f"windowed_to_generate_last_turns{suffix}"] = ratio
        if len(windowed) >= 60:
            growth = median(its[turn] for turn in late) / median(its[turn] for turn in early)
            result[f"windowed_growth{suffix}"] = growth
            result["windowed_growth_turns"] = [[turns[0] + 1, turns[-1] + 1] for turns in (early, late)]
    return result


def side_figures(turns: Turns) -> dict[str, Any]:
    """Return the figures of one side over all turns except the first."""
    later = [turns[turn] for turn in sorted(turns) if turn > 0]
    n_read = max(len(later[0].token_ids) - 1, 1)
    return {
        "turns": len(turns),
        "turn_s": spread([turn.turn_s for turn in later]),
        "turn_cpu_s": spread([turn.cpu_s for turn in later]),
        "first_token_s": spread([turn.first_token_s for turn in later]),
        "parts_s": {part: spread([turn.parts_s[part] for turn in later]) for part in later[0].parts_s},
        "decode_per_token_s": spread([turn.parts_s["decode_tokens"] / n_read for turn in later]),
    }


def targets(case: Case, result: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """Return the targets of a model."""
    name, on_cpu = case.name, not device.startswith("cuda")
    asked: list[tuple[str, float, float]] = []
    if on_cpu and name in MAX_RATIO:
        asked.append(("turn time to generate's, all turns", result["engine_to_generate"], MAX_RATIO[name]))
    if on_cpu and name in MAX_WINDOWED_RATIO:
        ratio = result["windowed_to_generate_last_turns"]
        asked.append(("windowed turn time to generate's, last ten turns", ratio, MAX_WINDOWED_RATIO[name]))
    share = result["windowed_evict_share_last_turns"]
    asked.append(("evicting's share of windowed turns, last ten", share, MAX_EVICT_SHARE))
    if "windowed_growth" in result and case.windowed_turns >= GROWTH_TURNS:  # before, its text is still filling up
        first, last = result["windowed_growth_turns"]
        what = f"windowed turn time, turns {last[0]} to {last[1]} to turns {first[0]} to {first[1]}"
        asked.append((what, result["windowed_growth"], MAX_GROWTH))
    if name == "livecc-7b":
        turn_s = result["sides"]["engine_windowed"]["turn_s"]
        asked.append(("windowed turn, median seconds", turn_s["median"], MAX_MEDIAN_S))
        asked.append(("windowed turn, 99th percentile in seconds", turn_s["p99"], MAX_P99_S))
        if "decode_per_token_to_that" in result:
            ratio = result["decode_per_token_to_that"]["engine_windowed"]
            asked.append(("windowed decode per token to weights over bandwidth", ratio, MAX_DECODE_RATIO))
    found = [at_most(f"{name}: {what}", measured, limit) for what, measured, limit in asked]
    # Rounding in bfloat16 makes tokens differ.
    return found if case.bf16 else [*found, holds(f"{name}: the same tokens as generate", result["same_tokens"])]


@benchmark("streaming.json", runs_model=True)
def main(
    run: Run,
    models: Annotated[tuple[str, ...], "models to run", CASES] = tuple(CASES),
    backbones: Annotated[tuple[str, ...], "run the mid-size shape on these, and no other model", BACKBONES] = (),
    turns: Annotated[int | None, "fewer turns than the models' own"] = None,
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
        if turns:
            case = replace(case, turns=min(case.turns, turns), windowed_turns=min(case.windowed_turns, turns))
        run.tell(f"{name}:")

        def tell(line: str, figures: dict[str, Any], name: str = name) -> None:
            run.tell(line, {"models": results | {name: {"sides": figures}}})

        results[name] = found = measure(case, run, tell)
        asked += targets(case, found, run.device)
        for side, figures in found["sides"].items():
            parts = {"turn": figures["turn_s"], **figures["parts_s"]}
            run.tell(f"  {side}: " + ", ".join(f"{part} {1000 * of['median']:.1f} ms" for part, of in parts.items()))
    run.file = "streaming-backbones.json" if backbones else run.file
    return {"models": results}, asked
