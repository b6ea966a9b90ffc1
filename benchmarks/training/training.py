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

import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_most, benchmark, in_child
from models import SHAPES, bundled_processor, random_config, synthetic_commentary

from livecc_hf.data.samples.sample import Sample

SIDES = ("ours", "straightforward")
MAX_MEMORY_RATIO, MAX_TIME_RATIO = 1 / 3, 2 / 3
CHILD_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # The C library gives freed tensors of a megabyte back at once: what is resident is then what is in use, and not
    # what its heap keeps, which grows with the number of steps.
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}
FRAME_PATCHES = 16  # along a side of the synthetic samples' frames: 224 pixels, 64 tokens a frame pair


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
        config = random_config(SHAPES["small" if case.name == "small" else "training"], processor)
        model, rng = LiveCCForConditionalGeneration(config), torch.Generator().manual_seed(0)
        pairs = [[3] + [1] * (n - 1) for n in case.turns]  # of frames, in each turn
        samples = [synthetic_commentary(config, rng, of, FRAME_PATCHES, 13, (5, 15)) for of in pairs]
    else:
        model, _ = load_model(bundled_model_path(), dtype="float32")
        samples = narrated_samples(processor, case.clips)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    torch.save(samples, folder / "samples.pt")
    lengths = [len(sample["input_ids"]) for sample in samples]
    rows = plan_packs(lengths, case.row_tokens, seed=0).row_lengths(lengths).tolist()
    n_tokens = sum(lengths)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_per_step": n_tokens,
        "supervised_share": sum(int((sample["labels"] != -100).sum()) for sample in samples) / n_tokens,
        "sample_tokens": lengths,
        "packed_row_tokens": rows,
    }


def narrated_samples(processor, n_clips: int) -> list[dict[str, Any]]:
    """Return the inputs of narrated clips of livecc-tiny's world, as its recipe draws them."""
    from livecc_hf.data.dataset import open_data
    from livecc_hf.data.samples.sample import EncodeOptions
    from livecc_hf.data.sources import tiny  # noqa: F401  (registers itself)

    entry = {"source": "tiny", "length": [12, 28], "samples": n_clips, "group": 1, "moods": ["busy", "calm"]}
    data = open_data([entry], processor, EncodeOptions(keep_trailing_silence=True))
    return [data.sample(index).model_inputs for index in range(n_clips)]


def resident_mb(field: str = "VmRSS") -> float:
    """Return a field of /proc/self/status; not `ru_maxrss`, which a child inherits from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status holds no {field}: this benchmark needs Linux")


def reset_peak() -> bool:
    """Set VmHWM back to what is resident now; return whether the system allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def training_options(output: str, steps: int) -> dict[str, Any]:
    """Return what both sides tell their trainer."""
    return {
        "output_dir": output,
        "max_steps": steps,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "max_grad_norm": 1.0,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": 0,
    }


class StoredSample(Sample):
    """An encoded sample as an item of training data: what is measured is training, not decoding."""

    def encode(self, *_: Any) -> Sample:
        """Return itself."""
        return self


class StoredPart(list):
    """Such samples as a part of `TrainingData`."""

    def origin(self, row: int) -> str:
        """Say which sample it is."""
        return f"stored sample {row}"


def build_ours(folder: Path, samples: list, row_tokens: int, options: dict[str, Any]):
    """Return our trainer over packed rows, with the whole data set in a step."""
    from trl import SFTConfig

    from livecc_hf.acceleration.vision import use_lean_vision
    from livecc_hf.checkpoints.loading import load_processor
    from livecc_hf.data.batches.collator import CommentaryCollator
    from livecc_hf.data.batches.loader import BatchLoader
    from livecc_hf.data.batches.packing import plan_packs
    from livecc_hf.data.dataset import DataPart, TrainingData
    from livecc_hf.data.samples.sample import EncodeOptions
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.training.model.packed_attention import use_packed_attention
    from livecc_hf.training.model.parts import set_trainable
    from livecc_hf.training.trainer import LiveCCTrainer

    model = LiveCCForConditionalGeneration.from_pretrained(folder, dtype="float32", attn_implementation="sdpa")
    set_trainable(model, ("language_model",))
    use_lean_vision(model.model.visual)
    use_packed_attention(model)
    processor = load_processor(str(folder))
    data = TrainingData([DataPart("stored", {}, StoredPart(samples), 1)], processor, EncodeOptions())
    packs = plan_packs([sample.n_tokens for sample in samples], row_tokens, seed=0)
    collator = CommentaryCollator(model.config, processor.tokenizer.pad_token_id, images_as_videos=True)
    loader = BatchLoader(data, packs, collator)
    options |= {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return recorded(LiveCCTrainer)(
        model=model,
        args=SFTConfig(**options, gradient_accumulation_steps=len(packs)),
        data_collator=loader,
        train_dataset=loader.dataset(),
        processing_class=processor,
    )


def build_straightforward(folder: Path, samples: list, options: dict[str, Any]):
    """Return transformers' trainer over one sample a row, with the whole data set in a step."""
    from datasets import Dataset
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Trainer, TrainingArguments

    from livecc_hf.data.batches.collator import CommentaryCollator
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig

    config = LiveCCConfig.from_pretrained(folder)
    ours_only = ("model_type", "position_scheme", "message_end_token_id", "auto_map", "architectures")
    described = {name: value for name, value in config.to_dict().items() if name not in ours_only}
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        folder, config=Qwen2VLConfig(**described), dtype="float32", attn_implementation="sdpa"
    )
    model.model.visual.requires_grad_(False)
    # Alone in its row, a sample is as a processor returns it, plus the positions, so that both sides use the same.
    collator = CommentaryCollator(config, config.text_config.pad_token_id)

    def collate(rows):
        batch = collator([[samples[row["row"]]] for row in rows])
        del batch["n_words"]
        return batch | {"attention_mask": (batch["input_ids"] >= 0).long()}

    return recorded(Trainer)(
        model=model,
        args=TrainingArguments(**options, gradient_accumulation_steps=len(samples)),
        data_collator=collate,
        train_dataset=Dataset.from_dict({"row": list(range(len(samples)))}),
    )


def recorded(trainer_class: type) -> type:
    """Return the trainer class with its steps' losses and times kept, in `losses`, `wall_s` and `cpu_s`."""

    class Recorded(trainer_class):
        def train(self, *args, **keywords):
            self.losses, self.wall_s, self.cpu_s, self._loss = [], [], [], 0.0
            self._last = time.perf_counter(), time.process_time()
            return super().train(*args, **keywords)

        def training_step(self, *args, **keywords):
            loss = super().training_step(*args, **keywords)
            self._loss += loss.item()  # already over all tokens of the step
            return loss

        def log(self, logs, *args, **keywords):
            if "loss" in logs:  # after the optimizer's step
                now = time.perf_counter(), time.process_time()
                self.wall_s.append(now[0] - self._last[0])
                self.cpu_s.append(now[1] - self._last[1])
                self.losses.append(self._loss)
                self._last, self._loss = now, 0.0
            super().log(logs, *args, **keywords)

    return Recorded


def run_side(side: str, row_tokens: int, folder: Path, steps: int) -> dict[str, Any]:
    """Train one side in this process and return its times, losses and memory."""
    import torch

    samples = [StoredSample(inputs) for inputs in torch.load(folder / "samples.pt")]
    with tempfile.TemporaryDirectory() as output:
        options = training_options(output, 1 + steps)
        if side == "ours":
            trainer = build_ours(folder / "model", samples, row_tokens, options)
        else:
            trainer = build_straightforward(folder / "model", samples, options)
        weights = list(trainer.model.parameters())
        for weight in weights:
            weight.data.sum()  # pages of a mapped file become resident only when touched
        was_reset, loaded_mb = reset_peak(), resident_mb()
        trainer.train()
    return {
        "wall_s": trainer.wall_s[1:],
        "cpu_s": trainer.cpu_s[1:],
        "losses": trainer.losses,
        "loaded_mb": loaded_mb,
        "peak_above_loaded_mb": resident_mb("VmHWM") - loaded_mb,
        "peak_was_reset": was_reset,
        "weights_mb": sum(weight.numel() * weight.element_size() for weight in weights) / 1e6,
        "gradients_and_optimizer_mb": 12 * sum(weight.numel() for weight in weights if weight.requires_grad) / 1e6,
        "rows_per_step": trainer.args.gradient_accumulation_steps,
        "threads": torch.get_num_threads(),
    }


def measure(case: Case, rounds: int, steps: int) -> dict[str, Any]:
    """Run both sides of a case, in turns, and compare them."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        facts = prepare(case, Path(name))
        for number in range(rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                found = in_child(run_side, side, case.row_tokens, Path(name), steps, environment=CHILD_ENVIRONMENT)
                runs[side].append(found)
                print(f"  round {number + 1}, {side}: {[round(s, 2) for s in found['wall_s']]} s", flush=True)
    ours, other = sides = [summary(runs[side]) for side in SIDES]
    differences = [abs(a - b) for a, b in zip(ours["losses"], other["losses"], strict=True)]
    return {
        "samples": asdict(case) | facts,
        "gradient_checkpointing": True,
        "memory_ratio": ours["peak_above_loaded_mb"] / other["peak_above_loaded_mb"],
        "step_time_ratio": ours["step_s"] / other["step_s"],
        "step_cpu_time_ratio": ours["step_cpu_s"] / other["step_cpu_s"],
        "first_loss_difference": differences[0],
        "largest_loss_difference": max(differences),
        **dict(zip(SIDES, sides, strict=True)),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one side over its rounds: medians of the times, the largest memory, the first round's losses."""
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
    """Return what must hold and whether it does."""
    found = [at_most(f"{case.name}: difference of the first losses", result["first_loss_difference"], 1e-4)]
    if case.has_target:
        found.append(at_most(f"{case.name}: memory ratio", result["memory_ratio"], MAX_MEMORY_RATIO))
        found.append(at_most(f"{case.name}: step time ratio", result["step_time_ratio"], MAX_TIME_RATIO))
    return found


@benchmark("training.json", "torch", "transformers", "trl", small={"models": ["small"], "rounds": 1, "steps": 1})
def main(
    _: Run,
    models: Annotated[list[str], "which", CASES] = ("livecc-tiny", "mid-size"),
    rounds: Annotated[int, "processes of each side, in turns"] = 2,
    steps: Annotated[int, "measured steps of each process, after a first one"] = 2,
) -> Measured:
    """Measure both sides of each model."""
    results, asked = {}, []
    for name in models:
        print(f"{name}:", flush=True)
        results[name] = found = measure(CASES[name], rounds, steps)
        asked += targets(CASES[name], found)
        for side in SIDES:
            shown = f"{found[side]['step_s']:.2f} s a step, {found[side]['peak_above_loaded_mb']:.0f} MB above weights"
            print(f"  {side}: {shown}, first loss {found[side]['losses'][0]:.5f}")
    return {"models": results, "child_environment": CHILD_ENVIRONMENT}, asked


if __name__ == "__main__":
    sys.exit(main())
