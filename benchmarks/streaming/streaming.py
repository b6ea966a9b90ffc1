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
ends with its last token; decoding the video is the same for all and is given beside it. Its parts: `resize` (to size,
and to patches), `evict` (what has left the window), `vision`, `prefill` (without vision), `decode_tokens` (reading
generated tokens), and the `rest` (tokenising, choosing tokens, text). The first turn, which is longer, is left out of
all figures.

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

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import at_most, finish, holds, keep, parser, slug, spread, surroundings
from models import CASES, Case, Video, backbone_case, build_model, bundled_processor, small, weights_floor

from livecc_hf.modeling.backbones import BACKBONES

QUERY = "Please describe the video."
WINDOW_TURNS = 10  # figures of a stretch of a stream are medians over as many turns

# What must hold, by model: (name, side or sides, limit). Ratios are to `generate`.
# Of livecc-tiny a turn is 20 ms and mostly calls of Python, as many for the model's own modules on both sides.
MAX_RATIO = {"livecc-tiny": 0.62, "mid-size": 0.75}
MAX_WINDOWED_RATIO = {"mid-size": 0.36}
MAX_RATIO |= dict.fromkeys((f"mid-size-{name}" for name in BACKBONES), 0.75)
MAX_WINDOWED_RATIO |= dict.fromkeys((f"mid-size-{name}" for name in BACKBONES), 0.40)
MAX_EVICT_SHARE = 0.05  # of the windowed turns in which the window is full
MAX_GROWTH, GROWTH_TURNS = 1.1, 240
MAX_MEDIAN_S, MAX_P99_S, MAX_DECODE_RATIO = 0.12, 0.2, 2.0


def measure(case: Case, device: str, is_small: bool, tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run all sides of a case, side by side, and compare them; `tell` is told what was measured so far."""
    import streaming_sides as ways
    import torch

    processor = bundled_processor(case.backbone)
    model = build_model(case, processor, device, is_small)
    clock = ways.Clock(torch.device(device))
    work = ways.Work(model, processor, QUERY, case.new_tokens, case.max_pixels)
    stock_processor = ways.stock_processor(processor, case.max_pixels)
    sides = {
        "engine": ways.EngineSide(work, clock, window="none"),
        "engine_windowed": ways.EngineSide(work, clock, vision_window_s=case.vision_window_s),
        # Each has modules of its own over the same weights: a stock model keeps the place of its positions on them.
        "generate": ways.StockSide(work, clock, ways.stock_model(model), stock_processor),
    }
    times: dict[str, dict[int, ways.TurnTimes]] = {name: {} for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        video = Video(case, Path(folder))
    warm_up(sides, video)
    for turn in range(max(case.turns, case.windowed_turns)):
        for name in order(case, turn):
            side = sides[name]
            with side.timed():
                times[name][turn] = clock.measure(partial(side.turn, video.clip(turn)))
        if turn % 20 == 19:
            print(f"  turn {turn + 1}", flush=True)
            tell({name: side_figures(turns) for name, turns in times.items() if len(turns) > 1})
    return compare(case, times, model, device) | {
        "video_decode_s": spread(video.decode_s),
        "video_tokens_per_turn": sides["engine"].n_video_tokens,
    }


def order(case: Case, turn: int) -> list[str]:
    """Return the sides that have this turn, in the order in which they run it: another one in each turn."""
    names = ["engine", "engine_windowed", "generate"]
    names = names[turn % 3 :] + names[: turn % 3]
    limits = {"engine_windowed": case.windowed_turns}
    return [name for name in names if turn < limits.get(name, case.turns)]


def warm_up(sides: dict[str, Any], video: Video) -> None:
    """Run two turns of each side and forgets them."""
    for name in ("engine", "engine_windowed", "generate"):
        for turn in range(2):
            sides[name].turn(video.clip(turn))
        sides[name].reset()


def compare(case: Case, times: dict[str, dict[int, Any]], model, device: str) -> dict[str, Any]:
    """Return the figures of all sides, and their ratios."""
    found = {name: side_figures(turns) for name, turns in times.items() if turns}
    both = sorted(set(times["engine"]) & set(times["generate"]) - {0})
    ours, windowed, other = (times[name] for name in ("engine", "engine_windowed", "generate"))
    last = both[-WINDOW_TURNS:]
    compared = [0, *both] if case.scheme == "reference" else [0]  # after it, positions differ
    n_same = sum(ours[turn].token_ids == other[turn].token_ids for turn in compared)
    if any(len(ours[turn].token_ids) != len(other[turn].token_ids) for turn in [0, *both]):
        raise AssertionError("a turn has more tokens on one side")
    result = {
        "case": asdict(case),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "same_tokens": n_same == len(compared),
        "turns_compared": len(compared),
        "turns_with_the_same_tokens": n_same,
        "engine_to_generate": total(ours, both) / total(other, both),
        "engine_to_generate_cpu": total(ours, both, "cpu_s") / total(other, both, "cpu_s"),
        "windowed_to_generate_last_turns": median(windowed, last) / median(other, last),
        "windowed_to_generate_last_turns_cpu": median(windowed, last, "cpu_s") / median(other, last, "cpu_s"),
        "windowed_evict_share_last_turns": sum(windowed[turn].parts_s["evict"] for turn in last)
        / total(windowed, last),
        "sides": found,
    }
    early, late = range(20, 20 + WINDOW_TURNS), range(len(windowed) - WINDOW_TURNS, len(windowed))
    if len(windowed) >= 60:
        result["windowed_growth"] = median(windowed, late) / median(windowed, early)
        result["windowed_growth_cpu"] = median(windowed, late, "cpu_s") / median(windowed, early, "cpu_s")
        result["windowed_growth_turns"] = [[early[0] + 1, early[-1] + 1], [late[0] + 1, late[-1] + 1]]
    if device.startswith("cuda"):
        result |= bandwidth_figures(model, found)
    return result


def total(turns: dict[int, Any], which, field: str = "turn_s") -> float:
    """Return the sum over some turns."""
    return sum(getattr(turns[turn], field) for turn in which)


def median(turns: dict[int, Any], which, field: str = "turn_s") -> float:
    """Return the median over some turns."""
    return statistics.median(getattr(turns[turn], field) for turn in which)


def side_figures(turns: dict[int, Any]) -> dict[str, Any]:
    """Return the figures of one side over its turns but the first."""
    later = [turns[turn] for turn in sorted(turns) if turn > 0]
    n_read = max(len(later[0].token_ids) - 1, 1)
    stretches = {}
    for first in range(0, max(turns) + 1, WINDOW_TURNS):
        part = [turns[turn].turn_s for turn in range(first, first + WINDOW_TURNS) if turn in turns and turn > 0]
        if part:
            stretches[f"{first + 1}-{min(first + WINDOW_TURNS, max(turns) + 1)}"] = statistics.median(part)
    return {
        "turns": len(turns),
        "turn_s": spread([turn.turn_s for turn in later]),
        "turn_cpu_s": spread([turn.cpu_s for turn in later]),
        "first_token_s": spread([turn.first_token_s for turn in later]),
        "parts_s": {part: spread([turn.parts_s[part] for turn in later]) for part in later[0].parts_s},
        "decode_per_token_s": spread([turn.parts_s["decode_tokens"] / n_read for turn in later]),
        "turn_s_by_turns": stretches,
    }


def bandwidth_figures(model, found: dict[str, Any]) -> dict[str, Any]:
    """Return what reading the weights once takes, and decoding a token beside it."""
    floor = weights_floor(model)
    measured = {name: found[name]["decode_per_token_s"]["median"] for name in ("engine", "engine_windowed", "generate")}
    ratios = {name: seconds / floor["weights_over_bandwidth_s"] for name, seconds in measured.items()}
    return floor | {"decode_per_token_to_that": ratios}


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


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Print a line for each side of each model, in milliseconds."""
    parts = ("resize", "evict", "vision", "prefill", "decode_tokens", "rest")
    heads = ("turn", "p95", "first", *parts, "a token")
    print(f"\n{'median ms':12} {'':16}" + "".join(f"{head[:9]:>10}" for head in heads))
    for name, result in results.items():
        for side, found in result["sides"].items():
            values = [found["turn_s"]["median"], found["turn_s"]["p95"], found["first_token_s"]["median"]]
            values += [found["parts_s"][part]["median"] for part in parts] + [found["decode_per_token_s"]["median"]]
            print(f"{name:12} {side:16}" + "".join(f"{1000 * value:10.1f}" for value in values))
        ratio, cpu_ratio = result["engine_to_generate"], result["engine_to_generate_cpu"]
        print(f"{name:12} engine to generate: {ratio:.4f} (CPU {cpu_ratio:.4f})")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    made.add_argument(
        "--backbones", nargs="+", choices=BACKBONES, help="the mid-size shape on these, and no other model"
    )
    made.add_argument("--turns", type=int, help="fewer turns than the models' own")
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch, on CPU")
    made.add_argument("--device", help="such as cpu; default: CUDA if there is any")
    return made.parse_args()


def _keep_sides(arguments: argparse.Namespace, results: dict[str, Any], name: str, sides: dict[str, Any]) -> None:
    keep(arguments, {"models": results | {name: {"sides": sides}}})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield


def main() -> int:
    """Measure, print and write; 1 if tokens differ or a target is missed."""
    arguments = parse_arguments()
    import torch

    torch.set_num_threads(arguments.threads)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    results, asked, load_before, started_s = {}, [], os.getloadavg(), time.perf_counter()
    cases = [*map(backbone_case, arguments.backbones or ())] or [CASES[name] for name in arguments.models]
    with torch.inference_mode(False), _quiet():
        for case in cases:
            name, case = case.name, small(case) if arguments.small else case
            if name == "livecc-7b" and not device.startswith("cuda") and not arguments.small:
                print("livecc-7b: skipped, no CUDA device is used; --small runs the same code with a tiny model")
                continue
            if arguments.turns:
                case = replace(
                    case,
                    turns=min(case.turns, arguments.turns),
                    windowed_turns=min(case.windowed_turns, arguments.turns),
                )
            print(f"{name}:", flush=True)
            tell = partial(_keep_sides, arguments, results, name)
            results[name] = found = measure(case, device, arguments.small, tell)
            asked += [target | {"target": f"{name}: {target['target']}"} for target in targets(case, found, device)]
    print_table(results)
    around = surroundings(device)
    report = {
        "models": results,
        **around,
        "load_average": [round(load, 2) for load in (load_before[0], os.getloadavg()[0])],
        "took_s": round(time.perf_counter() - started_s),
    }
    file = "streaming-backbones.json" if arguments.backbones else "streaming.json"
    if around["device"] != "cpu":
        file = f"{file.removesuffix('.json')}-{slug(around['device'])}.json"
    return finish(arguments, report, asked, file)


if __name__ == "__main__":
    sys.exit(main())
