"""Measures a training step: `LiveCCTrainer` against the straightforward way, on the same samples and weights.

    python benchmarks/training/training.py [--models livecc-tiny mid-size] [--rounds 2] [--steps 2] [--output FILE]

The straightforward way is transformers' own `Qwen2VLForConditionalGeneration` in its `Trainer`: one sample a row, no
packing, logits at every position. Ours packs samples into rows and computes head and loss at supervised positions
only. Everything else is the same: weights, ids, pixels, positions, float32, ``sdpa`` attention, gradient
checkpointing, frozen vision tower, AdamW, and the samples an optimizer step sees. Both must find the same loss.

Each side of each round runs in a process of its own. Memory is the peak of its resident memory (VmHWM) less what was
resident once weights, samples and trainer were there; gradients and AdamW's state, the same on both sides, are in
it. Time is the median over the steps after the first, from the end of a step to the end of the next.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import at_most, finish, in_child, machine, memory_gb, parser
from models import SHAPES, bundled_processor, ids_of, random_config

SIDES = ("ours", "straightforward")
MAX_MEMORY_RATIO, MAX_TIME_RATIO = 1 / 3, 2 / 3
CHILD_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # The C library gives freed tensors of a megabyte back at once: what is resident is then what is in use, and not
    # what its heap keeps, which grows with the number of steps.
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}
TURN_TEXT_TOKENS, WORD_TOKENS = 13, (5, 15)  # of the synthetic samples: time text, and fewest and most spoken
FRAME_PATCHES = 16  # along a side of their frames: 224 pixels, 64 tokens a frame pair
FIRST_TEXT_ID = 1000  # past livecc-tiny's ids, whose special tokens they use


@dataclass(frozen=True)
class Case:
    """One model and its samples.

    Attributes:
        name: of the model.
        row_tokens: most tokens of our rows.
        turns: of each synthetic sample; none: narrated clips of livecc-tiny's world.
        clips: how many of those.
        has_target: whether the targets hold for it.
    """

    name: str
    row_tokens: int
    turns: tuple[int, ...] = ()
    clips: int = 0
    has_target: bool = False


CASES = {
    case.name: case
    for case in (
        Case("livecc-tiny", row_tokens=2048, clips=12),
        Case("mid-size", row_tokens=4096, turns=(42, 12, 9), has_target=True),
        Case("small", row_tokens=640, turns=(2, 1, 1)),
    )
}


def prepare(case: Case, folder: Path) -> dict[str, Any]:
    """Write the weights and the samples of a case, and return what is known about them."""
    import torch

    from livecc_hf.assets import bundled_model_path
    from livecc_hf.checkpoints.loading import load_model
    from livecc_hf.data.batches.packing import plan_packs
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    processor = bundled_processor()
    if case.turns:
        torch.manual_seed(0)
        config = random_config(SHAPES["small" if case.name == "small" else "training"], ids_of(processor))
        model = LiveCCForConditionalGeneration(config)
        generator = torch.Generator().manual_seed(0)
        samples = [synthetic_sample(turns, config, generator) for turns in case.turns]
    else:
        model, _ = load_model(bundled_model_path(), dtype="float32")
        samples = narrated_samples(processor, case.clips)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    torch.save(samples, folder / "samples.pt")
    lengths = [len(sample["input_ids"]) for sample in samples]
    rows = plan_packs(lengths, case.row_tokens, seed=0).row_lengths(lengths).tolist()
    n_tokens = sum(lengths)
    n_supervised = sum(int((sample["labels"] != -100).sum()) for sample in samples)
    text = model.config.text_config
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "head_parameters": text.vocab_size * text.hidden_size,
        "vocabulary": text.vocab_size,
        "tokens_per_step": n_tokens,
        "supervised_share": n_supervised / n_tokens,
        "sample_tokens": lengths,
        "packed_row_tokens": rows,
        "row_budget_filled": n_tokens / (case.row_tokens * len(rows)),
        "padding_tokens": 0,  # both sides run one row at a time
    }


def synthetic_sample(turns: int, config, generator) -> dict[str, Any]:
    """Return the inputs of a commentary with random words and pixels: 6 frames in its first turn, then 2 a turn."""
    import torch

    def words(low: int, high: int) -> torch.Tensor:
        n = int(torch.randint(low, high + 1, (), generator=generator))
        return torch.randint(FIRST_TEXT_ID, config.text_config.vocab_size, (n,), generator=generator)

    ids, labels, grids = [], [], []
    for turn in range(turns):
        grid = [3 if turn == 0 else 1, FRAME_PATCHES, FRAME_PATCHES]
        video = torch.full((grid[0] * (FRAME_PATCHES // 2) ** 2,), config.video_token_id)
        start, end = (torch.tensor([token]) for token in (config.vision_start_token_id, config.vision_end_token_id))
        text = words(TURN_TEXT_TOKENS, TURN_TEXT_TOKENS)
        spoken = words(*WORD_TOKENS)
        prompt = torch.cat([text, start, video, end])
        ids += [prompt, spoken]
        labels += [torch.full_like(prompt, -100), spoken]
        grids.append(grid)
    input_ids, grid_thw = torch.cat(ids), torch.tensor(grids)
    return {
        "input_ids": input_ids,
        "labels": torch.cat(labels),
        "mm_token_type_ids": (input_ids == config.video_token_id).long() * 2,
        "pixel_values_videos": torch.randn(int(grid_thw.prod(1).sum()), 1176, generator=generator),
        "video_grid_thw": grid_thw,
    }


def narrated_samples(processor, n_clips: int) -> list[dict[str, Any]]:
    """Return the inputs of narrated clips of livecc-tiny's world, as its recipe draws them."""
    from livecc_hf.data.dataset import open_data
    from livecc_hf.data.samples.sample import EncodeOptions
    from livecc_hf.data.sources import tiny  # noqa: F401  (registers itself)

    entry = {"source": "tiny", "length": [12, 28], "samples": n_clips, "group": 1, "moods": ["busy", "calm"]}
    data = open_data([entry], processor, EncodeOptions(keep_trailing_silence=True))
    return [data.sample(index).model_inputs for index in range(n_clips)]


def run_child(side: str, case: Case, folder: Path, steps: int, checkpointing: bool) -> dict[str, Any]:
    """Run `run_side` in a process of its own."""
    options = ["--side", side, "--models", case.name, "--folder", str(folder), "--steps", str(steps)]
    options += [] if checkpointing else ["--no-checkpointing"]
    return in_child(__file__, *options, environment=CHILD_ENVIRONMENT)


def measure(case: Case, rounds: int, steps: int, checkpointing: bool) -> dict[str, Any]:
    """Run both sides of a case, in turns, and compares them."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = prepare(case, folder)
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                runs[side].append(run_child(side, case, folder, steps, checkpointing))
                print(f"  round {number + 1}, {side}: {[round(s, 2) for s in runs[side][-1]['wall_s']]} s", flush=True)
    sides = {side: summary(found) for side, found in runs.items()}
    ours, other = (sides[side] for side in SIDES)
    differences = [abs(a - b) for a, b in zip(ours["losses"], other["losses"], strict=True)]
    return {
        "samples": asdict(case) | facts,
        "gradient_checkpointing": checkpointing,
        "memory_ratio": ours["peak_above_loaded_mb"] / other["peak_above_loaded_mb"],
        "step_time_ratio": ours["step_s"] / other["step_s"],
        "step_cpu_time_ratio": ours["step_cpu_s"] / other["step_cpu_s"],
        "first_loss_difference": differences[0],
        "largest_loss_difference": max(differences),
        **sides,
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one side over its rounds: medians of the times, the largest memory, the first round's losses."""
    last = runs[-1]
    return {
        "step_s": statistics.median(s for run in runs for s in run["wall_s"]),
        "step_cpu_s": statistics.median(s for run in runs for s in run["cpu_s"]),
        "all_steps_s": [run["wall_s"] for run in runs],
        "peak_above_loaded_mb": max(run["peak_above_loaded_bytes"] for run in runs) / 1e6,
        "all_peaks_above_loaded_mb": [run["peak_above_loaded_bytes"] / 1e6 for run in runs],
        "loaded_mb": last["loaded_bytes"] / 1e6,
        "weights_mb": last["weight_bytes"] / 1e6,
        "gradients_and_optimizer_mb": last["gradient_and_optimizer_bytes"] / 1e6,
        "rows_per_step": last["rows_per_step"],
        "threads": last["threads"],
        "peak_was_reset": all(run["peak_was_reset"] for run in runs),
        "losses": runs[0]["losses"],
    }


def targets(case: Case, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what must hold and whether it does."""
    found = [at_most(f"{case.name}: difference of the first losses", result["first_loss_difference"], 1e-4)]
    if case.has_target:
        found.append(at_most(f"{case.name}: memory ratio", result["memory_ratio"], MAX_MEMORY_RATIO))
        found.append(at_most(f"{case.name}: step time ratio", result["step_time_ratio"], MAX_TIME_RATIO))
    return found


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Print a line for each side of each model."""
    print(f"\n{'model':12} {'':16} {'step s':>8} {'CPU s':>8} {'MB above weights':>17} {'first loss':>11}")
    for name, result in results.items():
        for side in SIDES:
            found = result[side]
            numbers = f"{found['step_s']:8.2f} {found['step_cpu_s']:8.2f} {found['peak_above_loaded_mb']:17.0f}"
            print(f"{name:12} {side:16} {numbers} {found['losses'][0]:11.5f}")
        ratios = f"{result['step_time_ratio']:8.3f} {result['step_cpu_time_ratio']:8.3f} {result['memory_ratio']:17.3f}"
        print(f"{name:12} {'ratio':16} {ratios} {result['first_loss_difference']:11.1e}")


def main() -> int:
    """Measure and write; 1 if the losses differ or a target is missed."""
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", choices=CASES, default=["livecc-tiny", "mid-size"])
    made.add_argument("--rounds", type=int, default=2, help="processes of each side, in turns")
    made.add_argument("--steps", type=int, default=2, help="measured steps of each process, after a first one")
    made.add_argument("--no-checkpointing", action="store_true", help="keep activations instead of recomputing them")
    made.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = made.parse_args()
    checkpointing = not arguments.no_checkpointing
    if arguments.side:
        from training_sides import run_side

        row_tokens = CASES[arguments.models[0]].row_tokens
        found = run_side(arguments.side, row_tokens, arguments.folder, arguments.steps, checkpointing)
        arguments.output.write_text(json.dumps(found))
        return 0
    if arguments.small:
        arguments.models, arguments.rounds, arguments.steps = ["small"], 1, 1
    results, asked, load_before = {}, [], os.getloadavg()
    for name in arguments.models:
        print(f"{name}:", flush=True)
        results[name] = measure(CASES[name], arguments.rounds, arguments.steps, checkpointing)
        asked += targets(CASES[name], results[name])
    print_table(results)
    report = {
        "models": results,
        **machine("torch", "transformers", "trl"),
        "memory_gb": round(memory_gb()),
        "child_environment": CHILD_ENVIRONMENT,
        "load_average": [load_before[0], os.getloadavg()[0]],
    }
    return finish(arguments, report, asked, "training.json")


if __name__ == "__main__":
    sys.exit(main())
