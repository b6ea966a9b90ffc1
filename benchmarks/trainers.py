"""What the training benchmarks share: encoded samples, our trainer over packed rows, and the times of its steps."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback
from trl import SFTConfig

from livecc_hf.acceleration.vision import use_lean_vision
from livecc_hf.data.batches.collator import CommentaryCollator
from livecc_hf.data.batches.loader import BatchLoader
from livecc_hf.data.batches.packing import plan_packs
from livecc_hf.data.dataset import DataPart, TrainingData
from livecc_hf.data.samples.sample import EncodeOptions, Sample
from livecc_hf.training.model.packed_attention import use_packed_attention
from livecc_hf.training.trainer import LiveCCTrainer

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


class StoredSample(Sample):
    """An encoded sample as an item of training data, so that training is measured without decoding."""

    def encode(self, *_: Any) -> Sample:
        """Return the sample itself."""
        return self


class _StoredPart(list):
    """Encoded samples as a part of `TrainingData`."""

    def origin(self, row: int) -> str:
        return f"stored sample {row}"

    def fingerprint(self) -> str:
        return f"{len(self)} stored samples"


def packed_trainer(model, processor, samples: Sequence[Sample], row_tokens: int, **options: Any) -> LiveCCTrainer:
    """Return our trainer as `livecc train` prepares it, over packed rows, with all samples in every step.

    `options` are those of `SFTConfig`, and `peft_config`; the samples are of :class:`StoredSample`.
    """
    use_lean_vision(model.model.visual)
    use_packed_attention(model)
    data = TrainingData([DataPart("stored", {}, _StoredPart(samples), 1)], processor, EncodeOptions())
    packs = plan_packs(np.array([sample.n_tokens for sample in samples]), row_tokens, seed=0)
    loader = BatchLoader(
        data, packs, CommentaryCollator(model.config, processor.tokenizer.pad_token_id, images_as_videos=True)
    )
    own = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return LiveCCTrainer(
        model=model,
        peft_config=options.pop("peft_config", None),
        args=SFTConfig(**TRAINING_OPTIONS, **own, **options, gradient_accumulation_steps=len(packs)),
        data_collator=loader,
        train_dataset=loader.dataset(),
        processing_class=processor,
    )


class StepRecorder(TrainerCallback):
    """Records wall time, CPU time and loss of each step, from the end of the step before."""

    def __init__(self) -> None:
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.losses: list[float] = []  # means over supervised tokens

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._last = time.perf_counter(), time.process_time()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Record a step, whose loss is logged after its update."""
        if "loss" in logs:
            now = time.perf_counter(), time.process_time()
            self.wall_s.append(now[0] - self._last[0])
            self.cpu_s.append(now[1] - self._last[1])
            self.losses.append(logs["loss"])
            self._last = now
