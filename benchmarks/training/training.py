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
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import hardware, memory_gb, software

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "benchmarks" / "results" / "training.json"
TINY = str(ROOT / "src" / "livecc_hf" / "assets" / "livecc-tiny")
SIDES = ("ours", "straightforward")
MAX_MEMORY_RATIO, MAX_TIME_RATIO = 1 / 3, 2 / 3
MAX_LOSS_DIFFERENCE = 1e-4
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
        Case("smoke", row_tokens=640, turns=(2, 1, 1)),
    )
}


def prepare(case: Case, folder: Path) -> dict[str, Any]:
    """Writes the weights and the samples of a case, and returns what is known about them."""
    import torch

    from livecc_hf.checkpoints.loading import load_processor
    from livecc_hf.data.batches.packing import plan_packs

    processor = load_processor(TINY)
    if case.turns:
        torch.manual_seed(0)
        model = mid_size_model(processor, smoke=case.name == "smoke")
        generator = torch.Generator().manual_seed(0)
        config = model.config
        samples = [synthetic_sample(turns, config, generator) for turns in case.turns]
    else:
        from livecc_hf.checkpoints.loading import load_model

        model, _ = load_model(TINY, dtype="float32")
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
        "supervised_share": round(n_supervised / n_tokens, 4),
        "sample_tokens": lengths,
        "packed_row_tokens": rows,
        "row_budget_filled": round(n_tokens / (case.row_tokens * len(rows)), 4),
        "padding_tokens": 0,  # both sides run one row at a time
    }


def mid_size_model(processor, smoke: bool = False):
    """Returns a Qwen2-VL with random weights, Qwen2-VL's vocabulary and its grouped attention.

    About 95M parameters: 58M in the tied embedding and head, most others in 12 layers.
    """
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    if smoke:
        vocabulary, hidden, layers, heads, sections, vision_dim = 4096, 64, 2, 8, [2, 1, 1], 32
    else:
        vocabulary, hidden, layers, heads, sections, vision_dim = 151_936, 384, 12, 6, [8, 12, 12], 256
    tokenizer = processor.tokenizer
    text = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 16 * hidden // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
        "bos_token_id": None,
        "eos_token_id": processor.end_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    vision = {"depth": 4, "embed_dim": vision_dim, "num_heads": 4, "mlp_ratio": 4, "hidden_size": hidden}
    ids = {
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": processor.video_token_id,
        "message_end_token_id": processor.end_id,
    }
    config = LiveCCConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    return LiveCCForConditionalGeneration(config)


def synthetic_sample(turns: int, config, generator) -> dict[str, Any]:
    """Returns the inputs of a commentary with random words and pixels: 6 frames in its first turn, then 2 a turn."""
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
    """Returns the inputs of narrated clips of livecc-tiny's world, as its recipe draws them."""
    from livecc_hf.data.dataset import open_data
    from livecc_hf.data.samples.sample import EncodeOptions
    from livecc_hf.data.sources import tiny  # noqa: F401  (registers itself)

    entry = {"source": "tiny", "length": [12, 28], "samples": n_clips, "group": 1, "moods": ["busy", "calm"]}
    data = open_data([entry], processor, EncodeOptions(keep_trailing_silence=True))
    return [data.sample(index).model_inputs for index in range(n_clips)]


def run_child(side: str, case: Case, folder: Path, steps: int, checkpointing: bool) -> dict[str, Any]:
    """Runs `run_side` in a process of its own.

    Raises:
        RuntimeError: if it fails; with the end of what it wrote.
    """
    result = folder / "result.json"
    arguments = ["--side", side, "--models", case.name, "--folder", str(folder), "--steps", str(steps)]
    if not checkpointing:
        arguments.append("--no-checkpointing")
    environment = {**os.environ, **CHILD_ENVIRONMENT}
    command = [sys.executable, __file__, *arguments, "--output", str(result)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case.name}, {side}: the process ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(result.read_text())


def measure(case: Case, rounds: int, steps: int, checkpointing: bool) -> dict[str, Any]:
    """Runs both sides of a case, in turns, and compares them."""
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
        "memory_ratio": round(ours["peak_above_loaded_mb"] / other["peak_above_loaded_mb"], 3),
        "step_time_ratio": round(ours["step_s"] / other["step_s"], 3),
        "step_cpu_time_ratio": round(ours["step_cpu_s"] / other["step_cpu_s"], 3),
        "first_loss_difference": differences[0],
        "largest_loss_difference": max(differences),
        **sides,
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns one side over its rounds: medians of the times, the largest memory, the first round's losses."""
    mb = 1e6
    last = runs[-1]
    return {
        "step_s": round(statistics.median(s for run in runs for s in run["wall_s"]), 3),
        "step_cpu_s": round(statistics.median(s for run in runs for s in run["cpu_s"]), 3),
        "all_steps_s": [[round(s, 3) for s in run["wall_s"]] for run in runs],
        "peak_above_loaded_mb": round(max(run["peak_above_loaded_bytes"] for run in runs) / mb, 1),
        "all_peaks_above_loaded_mb": [round(run["peak_above_loaded_bytes"] / mb, 1) for run in runs],
        "loaded_mb": round(last["loaded_bytes"] / mb, 1),
        "weights_mb": round(last["weight_bytes"] / mb, 1),
        "gradients_and_optimizer_mb": round(last["gradient_and_optimizer_bytes"] / mb, 1),
        "rows_per_step": last["rows_per_step"],
        "threads": last["threads"],
        "peak_was_reset": all(run["peak_was_reset"] for run in runs),
        "losses": runs[0]["losses"],
    }


def problems(case: Case, result: dict[str, Any]) -> list[str]:
    """Returns what is wrong with a result: different work, or a target that is missed."""
    found = []
    if not result["first_loss_difference"] <= MAX_LOSS_DIFFERENCE:
        found.append(f"{case.name}: the first losses differ by {result['first_loss_difference']:.2e}")
    if case.has_target and result["memory_ratio"] > MAX_MEMORY_RATIO:
        found.append(f"{case.name}: memory ratio {result['memory_ratio']} is above {MAX_MEMORY_RATIO:.3f}")
    if case.has_target and result["step_time_ratio"] > MAX_TIME_RATIO:
        found.append(f"{case.name}: step time ratio {result['step_time_ratio']} is above {MAX_TIME_RATIO:.3f}")
    return found


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Prints a line for each side of each model."""
    print(f"\n{'model':12} {'':16} {'step s':>8} {'CPU s':>8} {'MB above weights':>17} {'first loss':>11}")
    for name, result in results.items():
        for side in SIDES:
            found = result[side]
            numbers = f"{found['step_s']:8.2f} {found['step_cpu_s']:8.2f} {found['peak_above_loaded_mb']:17.0f}"
            print(f"{name:12} {side:16} {numbers} {found['losses'][0]:11.5f}")
        ratios = f"{result['step_time_ratio']:8.3f} {result['step_cpu_time_ratio']:8.3f} {result['memory_ratio']:17.3f}"
        print(f"{name:12} {'ratio':16} {ratios} {result['first_loss_difference']:11.1e}")


def main() -> int:
    """Measures and writes; 1 if the losses differ or a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=CASES, default=["livecc-tiny", "mid-size"])
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side, in turns")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each process, after a first one")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep activations instead of recomputing them")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    checkpointing = not arguments.no_checkpointing
    if arguments.side:
        from training_sides import run_side

        row_tokens = CASES[arguments.models[0]].row_tokens
        found = run_side(arguments.side, row_tokens, arguments.folder, arguments.steps, checkpointing)
        arguments.output.write_text(json.dumps(found))
        return 0
    results, load_before = {}, os.getloadavg()
    for name in arguments.models:
        print(f"{name}:", flush=True)
        results[name] = measure(CASES[name], arguments.rounds, arguments.steps, checkpointing)
    print_table(results)
    missed = [problem for name, result in results.items() for problem in problems(CASES[name], result)]
    report = {
        "targets": {"memory_ratio": round(MAX_MEMORY_RATIO, 3), "step_time_ratio": round(MAX_TIME_RATIO, 3)},
        "targets_met": not missed,
        "models": results,
        "hardware": f"{hardware()}, {memory_gb():.0f} GB of memory",
        **software("torch", "transformers", "trl", "accelerate"),
        "child_environment": CHILD_ENVIRONMENT,
        "load_average": [round(load, 2) for load in (load_before[0], os.getloadavg()[0])],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(missed) or "targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
