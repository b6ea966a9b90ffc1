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
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import Measured, Run, at_most, benchmark, in_child, rounded
from models import SHAPES, stock_model, synthetic_commentary

from livecc_hf.acceleration.vision import use_lean_vision
from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model, load_processor
from livecc_hf.checkpoints.shapes import shape_config, shape_processor
from livecc_hf.data.batches.collator import CommentaryCollator
from livecc_hf.data.batches.loader import BatchLoader
from livecc_hf.data.batches.packing import plan_packs
from livecc_hf.data.dataset import DataPart, TrainingData, open_data
from livecc_hf.data.samples.sample import EncodeOptions, Sample
from livecc_hf.data.sources import tiny  # noqa: F401  (registers itself)
from livecc_hf.modeling import LiveCCForConditionalGeneration
from livecc_hf.training.model.packed_attention import use_packed_attention
from livecc_hf.training.model.parts import set_trainable
from livecc_hf.training.trainer import LiveCCTrainer

SIDES = ("ours", "straightforward")
MAX_MEMORY_RATIO, MAX_TIME_RATIO = 1 / 3, 2 / 3
CHILD_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # The C library returns freed blocks above 1 MB at once, so that resident memory is memory in use.
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}
TRAINING_OPTIONS: dict[str, Any] = {
    "per_device_train_batch_size": 1,
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch_fused",
    "max_grad_norm": 1.0,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "remove_unused_columns": False,
    "seed": 0,
}
FRAME_PATCHES = 16  # along a side of the synthetic samples' frames: 224 pixels, 64 tokens a frame pair


ROW_TOKENS = {"livecc-tiny": 2048, "mid-size": 4096, "small": 640}  # of our rows at most, by model
TURNS = {"mid-size": (42, 12, 9), "small": (2, 1, 1)}  # of each synthetic sample
N_CLIPS = 12  # of livecc-tiny's world, which are its samples


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Write the weights and samples of a model, and return their sizes."""
    processor = shape_processor()
    if name in TURNS:
        torch.manual_seed(0)
        config = shape_config(SHAPES["small" if name == "small" else "training"], processor)
        model, rng = LiveCCForConditionalGeneration(config), torch.Generator().manual_seed(0)
        pairs = [[3] + [1] * (n - 1) for n in TURNS[name]]  # of frames, in each turn
        samples = [synthetic_commentary(config, rng, of, FRAME_PATCHES, 13, (5, 15)) for of in pairs]
    else:
        model, _ = load_model(bundled_model_path(), dtype="float32")
        entry = {"source": "tiny", "length": [12, 28], "samples": N_CLIPS, "group": 1, "moods": ["busy", "calm"]}
        data = open_data([entry], processor, EncodeOptions(keep_trailing_silence=True))
        samples = [data.sample(index).model_inputs for index in range(N_CLIPS)]
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    torch.save(samples, folder / "samples.pt")
    lengths = np.array([len(sample["input_ids"]) for sample in samples])
    return {
        "parameters": model.num_parameters(),
        "sample_tokens": lengths.tolist(),
        "packed_row_tokens": plan_packs(lengths, ROW_TOKENS[name], seed=0).row_lengths(lengths).tolist(),
        "supervised_tokens": sum(int((sample["labels"] != -100).sum()) for sample in samples),
    }


class StoredSample(Sample):
    """An encoded sample as an item of training data, so that training is measured without decoding."""

    def encode(self, *_: Any) -> Sample:
        """Return the sample itself."""
        return self


def packed_trainer(model, processor, samples: list[StoredSample], row_tokens: int, **options: Any) -> LiveCCTrainer:
    """Return our trainer as `livecc train` prepares it, over packed rows, with all samples in every step."""
    use_lean_vision(model.model.visual)
    use_packed_attention(model)
    items: Any = samples
    data = TrainingData([DataPart("stored", {}, items, 1)], processor, EncodeOptions())
    packs = plan_packs(np.array([sample.n_tokens for sample in samples]), row_tokens, seed=0)
    pad_id = processor.tokenizer.pad_token_id
    loader = BatchLoader(data, packs, CommentaryCollator(model.config, pad_id, images_as_videos=True))
    own = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    arguments = SFTConfig(**TRAINING_OPTIONS, **own, **options, gradient_accumulation_steps=len(packs))
    return LiveCCTrainer(
        model=model, args=arguments, data_collator=loader, train_dataset=loader.dataset(), processing_class=processor
    )


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


def resident_mb(field: str) -> float:
    """Return a field of /proc/self/status in 1e6 bytes; a child would inherit `ru_maxrss` from its parent."""
    values = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(values[field].split()[0]) * 1024 / 1e6


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
        del model  # the other side's trainer has another one
        marks_s: list[float] = []  # when training begins, and when each step ends
        clock = TrainerCallback()
        clock.on_train_begin = clock.on_step_end = lambda *_, **__: marks_s.append(time.perf_counter())
        trainer.add_callback(clock)
        for weight in trainer.model.parameters():
            weight.data.sum()  # pages of a mapped file become resident only when touched
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
        loaded_mb = resident_mb("VmRSS")
        trainer.train()
    return {
        "steps_s": [end - begin for begin, end in pairwise(marks_s)][1:],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "peak_above_loaded_mb": resident_mb("VmHWM") - loaded_mb,
        "rows_per_step": trainer.args.gradient_accumulation_steps,
    }


def measure(name: str, run: Run, rounds: int, steps: int) -> dict[str, Any]:
    """Run both sides of a model alternately; compare median times, largest memory, and losses of the first round."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as path:
        found: dict[str, Any] = {"samples": prepare(name, folder := Path(path))}
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                one = in_child(run_side, side, ROW_TOKENS[name], folder, steps, environment=CHILD_ENVIRONMENT)
                runs[side].append(one)
                run.tell(f"  round {number + 1}, {side}: {rounded(one)}")
    for side in SIDES:
        all_steps_s = [one.pop("steps_s") for one in runs[side]]
        found[side] = runs[side][0] | {
            "step_s": statistics.median(s for steps_s in all_steps_s for s in steps_s),
            "all_steps_s": all_steps_s,
            "peak_above_loaded_mb": max(one["peak_above_loaded_mb"] for one in runs[side]),
        }
    ours, other = (found[side] for side in SIDES)
    found["memory_ratio"] = ours["peak_above_loaded_mb"] / other["peak_above_loaded_mb"]
    found["step_time_ratio"] = ours["step_s"] / other["step_s"]
    return found | {"first_loss_difference": abs(ours["losses"][0] - other["losses"][0])}


def targets(name: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the targets of a model."""
    found = [at_most(f"{name}: difference of the first losses", result["first_loss_difference"], 1e-4)]
    if name == "mid-size":
        found.append(at_most(f"{name}: memory ratio", result["memory_ratio"], MAX_MEMORY_RATIO))
        found.append(at_most(f"{name}: step time ratio", result["step_time_ratio"], MAX_TIME_RATIO))
    return found


@benchmark("training.json", "torch", "transformers", "trl", small={"models": ["small"], "rounds": 1, "steps": 1})
def main(
    run: Run,
    models: Annotated[tuple[str, ...], "models to train", ROW_TOKENS] = ("livecc-tiny", "mid-size"),
    rounds: Annotated[int, "processes of each side, alternately"] = 2,
    steps: Annotated[int, "measured steps of each process, after a first one"] = 2,
) -> Measured:
    """Measure both sides of each model."""
    results, asked = {}, []
    for name in models:
        run.tell(f"{name}:")
        results[name] = measure(name, run, rounds, steps)
        asked += targets(name, results[name])
    return {"models": results}, asked
