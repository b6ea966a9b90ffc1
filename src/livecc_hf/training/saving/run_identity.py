"""Defines a run's identity: the options that `--resume` requires unchanged, and those that may change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..options.recipe import Recipe

if TYPE_CHECKING:
    from livecc_hf.data.batches.packing import Packs
    from livecc_hf.data.dataset import TrainingData

_LIMITS = ("keep_trailing_silence", "use_context", "min_pixels", "max_pixels", "max_frames")
_TRAINED = ("position_scheme", "train_parts", "optimizer")
# Restored from the optimizer's state, so a new value would have no effect.
_IN_OPTIMIZER = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
_FREE = (
    *("num_train_epochs", "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_grad_norm"),
    *("bf16", "fp16", "loss_type", "neftune_noise_alpha"),
)


@dataclass(frozen=True)
class RunIdentity:
    """The options of a run, as stored in a checkpoint.

    Attributes:
        fingerprint: hash of everything that decides the order of the samples and what they train.
        fixed: the options behind the fingerprint and those stored in the optimizer's state, by name.
        free: options that may change when the run is resumed, by name.
        rows: hash of the samples in each packed row; empty without packing.
    """

    fingerprint: str
    fixed: dict[str, Any] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    rows: str = ""


def identify_run(recipe: Recipe, train: TrainingData, packs: Packs) -> RunIdentity:
    """Return the identity of a recipe's run.

    Args:
        recipe: the run's options.
        train: its training samples.
        packs: the samples of each row.
    """
    ours, training, model = recipe.ours, recipe.training, recipe.model
    lora = {name: value for name, value in vars(model).items() if "lora" in name or name == "use_peft"}
    lora |= {"use_dora": True} if model.use_dora else {}  # as below: given only if on, as in older checkpoints
    described = (
        train.fingerprint(),
        recipe.packing and training.max_length,
        len(packs),
        training.seed,
        training.data_seed,
        str(training.train_sampling_strategy),
        (ours.position_scheme, ours.train_parts, ours.optimizer, str(training.optim)),
        list(lora.items()),
    )
    fixed: dict[str, Any] = {name: getattr(ours, name) for name in (*_LIMITS, *_TRAINED)}
    for index, (entry, part) in enumerate(zip(recipe.data, train.parts, strict=True)):
        fixed |= {f"data[{index}].{key}": value for key, value in entry.items()}
        fixed[f"the content of data[{index}] ({part.name})"] = part.part.fingerprint()
    fixed["held_out"] = 0 if ours.eval_data else ours.held_out
    for name in ("max_length", "seed", "data_seed", "train_sampling_strategy", "optim", *_IN_OPTIMIZER):
        fixed[name] = getattr(training, name)
    fixed["packing"] = recipe.packing
    if training.dataloader_drop_last:  # the steps of an epoch then depend on the size of its batches
        fixed["dataloader_drop_last, rows of a batch"] = training.per_device_train_batch_size * training.world_size
    if ours.optimizer == "muon":
        fixed["muon_learning_rate"] = ours.muon_learning_rate
    free = {name: getattr(training, name) for name in _FREE}
    free |= {name: getattr(model, name) for name in ("model_name_or_path", "dtype", "attn_implementation")}
    free |= {name: True for name in ("load_in_4bit", "load_in_8bit") if getattr(model, name)}
    fingerprint = hashlib.sha256(repr(described).encode()).hexdigest()[:16]
    return RunIdentity(fingerprint, _as_json(fixed | lora), _as_json(free), _hash_of(packs) if recipe.packing else "")


def _hash_of(packs: Packs) -> str:
    digest = hashlib.sha256(packs.offsets.astype(np.int64).tobytes())
    digest.update(packs.indices.astype(np.int64).tobytes())
    return digest.hexdigest()[:16]


def name_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences, such as `held_out 8 -> 4`; a missing value is shown as `not given`."""
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{name} {_shown(before, name)} -> {_shown(now, name)}"
        for name in names
        if before.get(name, ...) != now.get(name, ...)
    ]


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False)[:80] if name in values else "not given"


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values after a round trip through JSON; enumerations become their values."""
    return json.loads(json.dumps(values, default=lambda value: str(getattr(value, "value", value))))
