"""Measures a training step: `LiveCCTrainer` against transformers' `Trainer`, on the same samples and weights.

    python benchmarks/training/training.py [--models livecc-tiny mid-size] [--rounds 2] [--steps 2] [--output FILE]

The `straightforward` side is transformers' own `Qwen2VLForConditionalGeneration` in its `Trainer`: one sample a row, no
packing, logits at every position. Ours packs samples into rows and computes head and loss at supervised positions
only. All else is equal: weights, ids, pixels, positions, float32, ``sdpa`` attention, gradient checkpointing, frozen
vision tower, AdamW, and the samples of an optimizer step. Both must find the same loss.

Each side of each round runs in its own process. Memory is the peak of resident memory (VmHWM) minus what was resident
once weights, samples and trainer were loaded; it includes gradients and AdamW's state, equal on both sides. Time is the
median over the steps after the first, from the end of one step to the end of the next.
"""

import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_most, benchmark, in_child
from models import SHAPES, stock_model, synthetic_commentary
from trainers import TRAINING_OPTIONS, StepRecorder, StoredSample, packed_trainer

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model, load_processor
from livecc_hf.checkpoints.shapes import shape_config, shape_processor
from livecc_hf.data.batches.collator import CommentaryCollator
from livecc_hf.data.batches.packing import plan_packs
from livecc_hf.data.dataset import open_data
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources import tiny  # noqa: F401  (registers itself)
from livecc_hf.modeling import LiveCCForConditionalGeneration
from livecc_hf.training.model.parts import set_trainable

SIDES = ("ours", "straightforward")
MAX_MEMORY_RATIO, MAX_TIME_RATIO = 1 / 3, 2 / 3
CHILD_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # The C library returns freed blocks above 1 MB at once, so that resident memory is memory in use.
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}
FRAME_PATCHES = 16  # along a side of the synthetic samples' frames: 224 pixels, 64 tokens a frame pair


@dataclass(frozen=True)
class Case:
    """One model and its samples."""

    name: str
    row_tokens: int  # at most, in our rows
    turns: tuple[int, ...] = ()  # of each synthetic sample; empty: narrated clips of livecc-tiny's world
    clips: int = 0  # number of narrated clips
    has_target: bool = False  # for memory and time


CASES = {
    case.name: case
    for case in (
        Case("livecc-tiny", row_tokens=2048, clips=12),
        Case("mid-size", row_tokens=4096, turns=(42, 12, 9), has_target=True),
        Case("small", row_tokens=640, turns=(2, 1, 1)),
    )
}


def prepare(case: Case, folder: Path) -> dict[str, Any]:
    """Write the weights and samples of a case, and return their sizes."""
    processor = shape_processor()
    if case.turns:
        torch.manual_seed(0)
        config = shape_config(SHAPES["small" if case.name == "small" else "training"], processor)
        model, rng = LiveCCForConditionalGeneration(config), torch.Generator().manual_seed(0)
        pairs = [[3] + [1] * (n - 1) for n in case.turns]  # of frames, in each turn
        samples = [synthetic_commentary(config, rng, of, FRAME_PATCHES, 13, (5, 15)) for of in pairs]
    else:
        model, _ = load_model(bundled_model_path(), dtype="float32")
        entry = {"source": "tiny", "length": [12, 28], "samples": case.clips, "group": 1, "moods": ["busy", "calm"]}
        data = open_data([entry], processor, EncodeOptions(keep_trailing_silence=True))
        samples = [data.sample(index).model_inputs for index in range(case.clips)]
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    torch.save(samples, folder / "samples.pt")
    lengths = np.array([len(sample["input_ids"]) for sample in samples])
    rows = plan_packs(lengths, case.row_tokens, seed=0).row_lengths(lengths).tolist()
    share = sum(int((sample["labels"] != -100).sum()) for sample in samples) / int(lengths.sum())
    found = {"parameters": model.num_parameters(), "tokens_per_step": int(lengths.sum()), "supervised_share": share}
    return found | {"sample_tokens": lengths.tolist(), "packed_row_tokens": rows}


def resident_mb(field: str = "VmRSS") -> float:
    """Return a field of /proc/self/status in 1e6 bytes; a child would inherit `ru_maxrss` from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status holds no {field}: this benchmark needs Linux")


def reset_peak() -> bool:
    """Reset VmHWM to what is resident now; return whether the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def straightforward_trainer(model, samples: list[StoredSample], **options: Any) -> Trainer:
    """Return transformers' trainer over one sample a row, with all samples in every step."""
    # A sample alone in its row is as a processor returns it, with positions, so that both sides have the same.
    collator = CommentaryCollator(model.config, model.config.text_config.pad_token_id)

    def collate(rows: list[dict[str, int]]) -> dict[str, Any]:
        batch: dict[str, Any] = collator([[samples[row["row"]]] for row in rows])
        del batch["n_words"]
        return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}

    return Trainer(
        model=stock_model(model),
        args=TrainingArguments(**TRAINING_OPTIONS, **options, gradient_accumulation_steps=len(samples)),
        data_collator=collate,
        train_dataset=Dataset.from_dict({"row": list(range(len(samples)))}),
    )


def run_side(side: str, row_tokens: int, folder: Path, steps: int) -> dict[str, Any]:
    """Train one side in this process and return its times, losses and memory."""
    samples = [StoredSample(inputs) for inputs in torch.load(folder / "samples.pt")]
    model = LiveCCForConditionalGeneration.from_pretrained(
        folder / "model", dtype="float32", attn_implementation="sdpa"
    )
    set_trainable(model, ("language_model",))
    with tempfile.TemporaryDirectory() as output:
        options = {"output_dir": output, "max_steps": 1 + steps, "learning_rate": 1e-5, "bf16": False, "use_cpu": True}
        if side == "ours":
            trainer = packed_trainer(model, load_processor(folder / "model"), samples, row_tokens, **options)
        else:
            trainer = straightforward_trainer(model, samples, **options)
            trainer.model.model.visual.requires_grad_(False)
        del model
        trainer.add_callback(recorder := StepRecorder())
        weights = list(trainer.model.parameters())
        for weight in weights:
            weight.data.sum()  # pages of a mapped file become resident only when touched
        was_reset, loaded_mb = reset_peak(), resident_mb()
        trainer.train()
    found = {"wall_s": recorder.wall_s[1:], "cpu_s": recorder.cpu_s[1:], "losses": recorder.losses}
    return found | {
        "loaded_mb": loaded_mb,
        "peak_above_loaded_mb": resident_mb("VmHWM") - loaded_mb,
        "peak_was_reset": was_reset,
        "weights_mb": sum(weight.numel() * weight.element_size() for weight in weights) / 1e6,
        "gradients_and_optimizer_mb": 12 * sum(weight.numel() for weight in weights if weight.requires_grad) / 1e6,
        "rows_per_step": trainer.args.gradient_accumulation_steps,
        "threads": torch.get_num_threads(),
    }


def measure(case: Case, run: Run, rounds: int, steps: int) -> dict[str, Any]:
    """Run both sides of a case alternately, and compare them."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        facts = prepare(case, Path(name))
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                found = in_child(run_side, side, case.row_tokens, Path(name), steps, environment=CHILD_ENVIRONMENT)
                runs[side].append(found)
                run.tell(f"  round {number + 1}, {side}: {[round(s, 2) for s in found['wall_s']]} s")
    ours, other = sides = [summary(runs[side]) for side in SIDES]
    differences = [abs(a - b) for a, b in zip(ours["losses"], other["losses"], strict=True)]
    found = {"samples": asdict(case) | facts, "gradient_checkpointing": True, **dict(zip(SIDES, sides, strict=True))}
    for ratio, field in (
        ("memory_ratio", "peak_above_loaded_mb"),
        ("step_time_ratio", "step_s"),
        ("step_cpu_time_ratio", "step_cpu_s"),
    ):
        found[ratio] = ours[field] / other[field]
    return found | {"first_loss_difference": differences[0], "largest_loss_difference": max(differences)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one side over its rounds: median times, largest memory, the first round's losses."""
    peaks_mb = [run["peak_above_loaded_mb"] for run in runs]
    return runs[0] | {
        "step_s": statistics.median(s for run in runs for s in run["wall_s"]),
        "step_cpu_s": statistics.median(s for run in runs for s in run["cpu_s"]),
        "all_steps_s": [run["wall_s"] for run in runs],
        "peak_above_loaded_mb": max(peaks_mb),
        "all_peaks_above_loaded_mb": peaks_mb,
        "peak_was_reset": all(run["peak_was_reset"] for run in runs),
    }


def targets(case: Case, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the targets of a case."""
    found = [at_most(f"{case.name}: difference of the first losses", result["first_loss_difference"], 1e-4)]
    if case.has_target:
        found.append(at_most(f"{case.name}: memory ratio", result["memory_ratio"], MAX_MEMORY_RATIO))
        found.append(at_most(f"{case.name}: step time ratio", result["step_time_ratio"], MAX_TIME_RATIO))
    return found


@benchmark("training.json", "torch", "transformers", "trl", small={"models": ["small"], "rounds": 1, "steps": 1})
def main(
    run: Run,
    models: Annotated[tuple[str, ...], "models to train", CASES] = ("livecc-tiny", "mid-size"),
    rounds: Annotated[int, "processes of each side, alternately"] = 2,
    steps: Annotated[int, "measured steps of each process, after a first one"] = 2,
) -> Measured:
    """Measure both sides of each model."""
    results, asked = {}, []
    for name in models:
        run.tell(f"{name}:")
        results[name] = found = measure(CASES[name], run, rounds, steps)
        asked += targets(CASES[name], found)
        for side in SIDES:
            shown = f"{found[side]['step_s']:.2f} s a step, {found[side]['peak_above_loaded_mb']:.0f} MB above weights"
            run.tell(f"  {side}: {shown}, first loss {found[side]['losses'][0]:.5f}")
    return {"models": results, "child_environment": CHILD_ENVIRONMENT}, asked
