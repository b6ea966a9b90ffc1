"""Measures commentary turn by turn: this engine against the reference's way.

    python benchmarks/streaming/streaming.py [--models livecc-tiny mid-size livecc-7b] [--threads 2] [--output FILE]
    python benchmarks/streaming/streaming.py --backbones qwen2_vl qwen2_5_vl qwen3_vl

Three sides get the same weights, frames and number of generated tokens a turn, turn by turn and in changing order, so
that other work on the machine slows all of them:

- `engine`: our stream with nothing evicted; `engine_windowed`: with the default sliding window;
- `generate`: the way of LiveCC's demonstration, on the installed transformers: Qwen2-VL's own model and processor, one
  processor call and one `generate` a turn over a carried `DynamicCache`, in the demonstration's positions. Ours run
  in the position scheme ``reference``, which has the same, so that both must say the same.

Generation is greedy with a repetition penalty of 1.05. A turn's time begins with its decoded frames, 2 a second, and
ends with its last token. Its parts: `resize` (to size, and to patches), `evict` (what has left the window), `vision`,
`prefill` (without vision), `decode_tokens` (reading generated tokens), and the `rest` (tokenising, choosing tokens,
text). The first turn, which is longer, is left out of all figures.

`--backbones` measures the mid-size shape on each backbone instead, against that backbone's own model and processor,
which also writes Qwen3-VL's times into the prompt. Only Qwen2-VL runs in the demonstration's positions. Ours of the
others are 3-D in every turn, as these were trained, and those of `generate` are not after the first turn: tokens are
compared in the first turn alone, and in all turns only their number is the same.

`mid-size-bf16` has all sides in bfloat16, as on a GPU: an eviction then starts from keys as they were first read. Its
roundings part two ways of computing the same, so tokens are not held to be equal.

The 7B shape runs on CUDA only and is skipped elsewhere; `--small` runs every model with tiny shapes and few turns on
any device, compares tokens only, and writes no file unless told to. Exit code 1 where tokens differ or a target is
missed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_most, benchmark, holds, spread
from models import CASES, Case, Video, backbone_case, build_model, bundled_processor, weights_floor

from livecc_hf.modeling.backbones import BACKBONES

QUERY = "Please describe the video."
WINDOW_TURNS = 10  # figures of a stretch of a stream are medians over as many turns
SIDES = ("engine", "engine_windowed", "generate")

# What must hold, by model. Ratios are to `generate`.
# Half of a turn of livecc-tiny (30 ms) is the model's own linear layers and attention kernels, the same on both sides,
# so it gains less than larger models. Quiet runs on one machine gave 0.62 to 0.65.
MAX_RATIO = {"livecc-tiny": 0.66, "mid-size": 0.75}
MAX_WINDOWED_RATIO = {"mid-size": 0.36}
MAX_RATIO |= dict.fromkeys((f"mid-size-{name}" for name in BACKBONES), 0.75)
MAX_WINDOWED_RATIO |= dict.fromkeys((f"mid-size-{name}" for name in BACKBONES), 0.40)
MAX_EVICT_SHARE = 0.05  # of the windowed turns in which the window is full
MAX_GROWTH, GROWTH_TURNS = 1.1, 240
MAX_MEDIAN_S, MAX_P99_S, MAX_DECODE_RATIO = 0.12, 0.2, 2.0


def measure(case: Case, run: Run, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run all sides of a case, side by side, and compare them; `tell` is told what was measured so far."""
    import streaming_sides as ways
    import torch

    processor = bundled_processor(case.backbone)
    model = build_model(case, processor, run.device, run.is_small)
    clock = ways.Clock(torch.device(run.device))
    work = ways.Work(model, processor, QUERY, case.new_tokens, case.max_pixels)
    stock_processor = ways.stock_processor(processor, case.max_pixels)
    sides = {
        "engine": ways.EngineSide(work, clock, window="none"),
        "engine_windowed": ways.EngineSide(work, clock, vision_window_s=case.vision_window_s),
        # Each has modules of its own over the same weights: a stock model keeps the place of its positions on them.
        "generate": ways.StockSide(work, clock, ways.stock_model(model), stock_processor),
    }
    video = Video(case)
    for side in sides.values():  # warm up
        for turn in range(2):
            side.turn(video.clip(turn))
        side.reset()
    times: dict[str, dict[int, ways.TurnTimes]] = {name: {} for name in sides}
    for turn in range(max(case.turns, case.windowed_turns)):
        for name in order(case, turn):
            with sides[name].timed():
                times[name][turn] = clock.measure(partial(sides[name].turn, video.clip(turn)))
        if turn % 20 == 19:
            print(f"  turn {turn + 1}", flush=True)
            tell({name: side_figures(turns) for name, turns in times.items() if len(turns) > 1})
    found = compare(case, times)
    if run.device.startswith("cuda"):
        found |= weights_floor(model)
        floor_s = found["weights_over_bandwidth_s"]
        token_s = {name: side["decode_per_token_s"]["median"] for name, side in found["sides"].items()}
        found["decode_per_token_to_that"] = {name: seconds / floor_s for name, seconds in token_s.items()}
    return found | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "video_tokens_per_turn": sides["engine"].n_video_tokens,
    }


def order(case: Case, turn: int) -> list[str]:
    """Return the sides that have this turn, in the order in which they run it: another one in each turn."""
    names = SIDES[turn % 3 :] + SIDES[: turn % 3]
    return [name for name in names if turn < (case.windowed_turns if name == "engine_windowed" else case.turns)]


def compare(case: Case, times: dict[str, dict[int, Any]]) -> dict[str, Any]:
    """Return the figures of all sides, and their ratios, by the clock and (`_cpu`) of this process's CPU time."""
    ours, windowed, other = (times[name] for name in SIDES)
    both = sorted(set(ours) & set(other) - {0})
    last = both[-WINDOW_TURNS:]
    compared = [0, *both] if case.scheme == "reference" else [0]  # after it, positions differ
    n_same = sum(ours[turn].token_ids == other[turn].token_ids for turn in compared)
    if any(len(ours[turn].token_ids) != len(other[turn].token_ids) for turn in [0, *both]):
        raise AssertionError("a turn has more tokens on one side")
    result = {
        "case": asdict(case),
        "same_tokens": n_same == len(compared),
        "turns_compared": len(compared),
        "turns_with_the_same_tokens": n_same,
        "windowed_evict_share_last_turns": sum(windowed[turn].parts_s["evict"] for turn in last)
        / sum(seconds(windowed, last, "turn_s")),
        "sides": {name: side_figures(turns) for name, turns in times.items()},
    }
    early, late = range(20, 20 + WINDOW_TURNS), range(len(windowed) - WINDOW_TURNS, len(windowed))
    for suffix, field in (("", "turn_s"), ("_cpu", "cpu_s")):
        result[f"engine_to_generate{suffix}"] = sum(seconds(ours, both, field)) / sum(seconds(other, both, field))
        ratio = median(seconds(windowed, last, field)) / median(seconds(other, last, field))
        result[f"windowed_to_generate_last_turns{suffix}"] = ratio
        if len(windowed) >= 60:
            growth = median(seconds(windowed, late, field)) / median(seconds(windowed, early, field))
            result[f"windowed_growth{suffix}"] = growth
            result["windowed_growth_turns"] = [[turns[0] + 1, turns[-1] + 1] for turns in (early, late)]
    return result


def seconds(turns: dict[int, Any], which: Iterable[int], field: str) -> list[float]:
    """Return a time of some turns."""
    return [getattr(turns[turn], field) for turn in which]


def side_figures(turns: dict[int, Any]) -> dict[str, Any]:
    """Return the figures of one side over its turns but the first."""
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
    """Return what is asked of a model, what was measured, and whether that meets it."""
    name, found = case.name, []
    on_cuda = device.startswith("cuda")
    if not on_cuda and name in MAX_RATIO:
        found.append(at_most("turn time to generate's, all turns", result["engine_to_generate"], MAX_RATIO[name]))
    if not on_cuda and name in MAX_WINDOWED_RATIO:
        ratio = result["windowed_to_generate_last_turns"]
        found.append(at_most("windowed turn time to generate's, last ten turns", ratio, MAX_WINDOWED_RATIO[name]))
    share = result["windowed_evict_share_last_turns"]
    found.append(at_most("evicting's share of windowed turns, last ten", share, MAX_EVICT_SHARE))
    if "windowed_growth" in result and case.windowed_turns >= GROWTH_TURNS:  # before, its text is still filling up
        first, last = result["windowed_growth_turns"]
        what = f"windowed turn time, turns {last[0]} to {last[1]} to turns {first[0]} to {first[1]}"
        found.append(at_most(what, result["windowed_growth"], MAX_GROWTH))
    if name == "livecc-7b":
        turn_s = result["sides"]["engine_windowed"]["turn_s"]
        found.append(at_most("windowed turn, median seconds", turn_s["median"], MAX_MEDIAN_S))
        found.append(at_most("windowed turn, 99th percentile in seconds", turn_s["p99"], MAX_P99_S))
        if "decode_per_token_to_that" in result:
            ratio = result["decode_per_token_to_that"]["engine_windowed"]
            found.append(at_most("windowed decode per token to weights over bandwidth", ratio, MAX_DECODE_RATIO))
    if not case.bf16:  # its roundings part two ways of computing the same
        found.append(holds("the same tokens as generate", result["same_tokens"]))
    return found


@benchmark("streaming.json", runs_model=True)
def main(
    run: Run,
    models: Annotated[list[str], "which", CASES] = tuple(CASES),
    backbones: Annotated[list[str], "the mid-size shape on these, and no other model", BACKBONES] = (),
    turns: Annotated[int | None, "fewer turns than the models' own"] = None,
) -> Measured:
    """Measure all sides of each model."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    results: dict[str, dict[str, Any]] = {}
    asked = []
    for case in [*map(backbone_case, backbones)] or [CASES[name] for name in models]:
        name, case = case.name, case.small() if run.is_small else case
        if name == "livecc-7b" and not run.device.startswith("cuda") and not run.is_small:
            print("livecc-7b: skipped, no CUDA device is used; --small runs the same code with a tiny model")
            continue
        if turns:
            case = replace(case, turns=min(case.turns, turns), windowed_turns=min(case.windowed_turns, turns))
        print(f"{name}:", flush=True)
        with torch.inference_mode(False):
            tell = lambda sides, name=name: run.keep({"models": results | {name: {"sides": sides}}})  # noqa: E731
            results[name] = found = measure(case, run, tell)
        asked += [target | {"target": f"{name}: {target['target']}"} for target in targets(case, found, run.device)]
        for side, figures in found["sides"].items():
            parts = {"turn": figures["turn_s"], **figures["parts_s"]}
            print(f"  {side}: " + ", ".join(f"{part} {1000 * of['median']:.1f} ms" for part, of in parts.items()))
    run.file = "streaming-backbones.json" if backbones else run.file
    return {"models": results}, asked


if __name__ == "__main__":
    sys.exit(main())
