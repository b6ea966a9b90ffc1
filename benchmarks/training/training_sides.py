"""The two ways of training that `benchmarks/training/training.py` compares, each as it runs in a process of its own."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def resident_bytes(field: str = "VmRSS") -> int:
    """Return a field of /proc/self/status; not `ru_maxrss`, which a child inherits from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status holds no {field}: this benchmark needs Linux")


def reset_peak() -> bool:
    """Set VmHWM back to what is resident now; return whether the system allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def training_options(output: str, steps: int, checkpointing: bool) -> dict[str, Any]:
    """Return what both sides tell their trainer."""
    return {
        "output_dir": output,
        "max_steps": steps,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "max_grad_norm": 1.0,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "seed": 0,
    }


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
    packs = plan_packs([len(sample["input_ids"]) for sample in samples], row_tokens, seed=0)
    collator = CommentaryCollator(model.config, processor.tokenizer.pad_token_id, images_as_videos=True)
    loader = BatchLoader(data, packs, collator)
    arguments = SFTConfig(
        **options,
        gradient_accumulation_steps=len(packs),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return recorded(LiveCCTrainer)(
        model=model,
        args=arguments,
        data_collator=loader,
        train_dataset=loader.dataset(),
        processing_class=processor,
    )


def build_straightforward(folder: Path, samples: list, options: dict[str, Any]):
    """Return transformers' trainer over one sample a row, with the whole data set in a step."""
    from datasets import Dataset
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Trainer, TrainingArguments

    from livecc_hf.data.batches.collator import CommentaryCollator
    from livecc_hf.data.samples.sample import Sample
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
        batch = collator([[Sample(samples[row["row"]])] for row in rows])
        del batch["n_words"]
        return batch | {"attention_mask": (batch["input_ids"] >= 0).long()}

    return recorded(Trainer)(
        model=model,
        args=TrainingArguments(**options, gradient_accumulation_steps=len(samples)),
        data_collator=collate,
        train_dataset=Dataset.from_dict({"row": list(range(len(samples)))}),
    )


class StoredPart:
    """Samples in memory as a part of `TrainingData`: what is measured is training, not decoding."""

    def __init__(self, samples: list):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int):
        return _StoredItem(self.samples[row])

    def origin(self, row: int) -> str:
        """Say which sample it is."""
        return f"stored sample {row}"


@dataclass(frozen=True)
class _StoredItem:
    inputs: dict[str, Any]

    def encode(self, processor, options):
        from livecc_hf.data.samples.sample import Sample

        return Sample(self.inputs)


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


def run_side(side: str, row_tokens: int, folder: Path, steps: int, checkpointing: bool) -> dict[str, Any]:
    """Train one side in this process and return its times, losses and memory."""
    import torch

    samples = torch.load(folder / "samples.pt")
    with tempfile.TemporaryDirectory() as output:
        options = training_options(output, 1 + steps, checkpointing)
        if side == "ours":
            trainer = build_ours(folder / "model", samples, row_tokens, options)
        else:
            trainer = build_straightforward(folder / "model", samples, options)
        weights = list(trainer.model.parameters())
        for weight in weights:
            weight.data.sum()  # pages of a mapped file become resident only when touched
        is_reset = reset_peak()
        loaded = resident_bytes()
        trainer.train()
    return {
        "wall_s": trainer.wall_s[1:],
        "cpu_s": trainer.cpu_s[1:],
        "losses": trainer.losses,
        "loaded_bytes": loaded,
        "peak_above_loaded_bytes": resident_bytes("VmHWM") - loaded,
        "peak_was_reset": is_reset,
        "weight_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
        "gradient_and_optimizer_bytes": 3 * sum(4 * weight.numel() for weight in weights if weight.requires_grad),
        "rows_per_step": trainer.args.gradient_accumulation_steps,
        "threads": torch.get_num_threads(),
    }
