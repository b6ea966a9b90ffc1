"""Checks values of TRL's and transformers' options that would otherwise fail late, unnamed, or do nothing."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

_AT_LEAST_1 = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_AT_LEAST_0 = ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "dataloader_num_workers")
# What is measured on held-out data, and whether more is better.
_MEASURED = {"loss": False, "loss_per_word": False, "entropy": False, "mean_token_accuracy": True}
_TRACKERS = ("tensorboard", "wandb", "trackio")  # examples for messages


def check_values(training: SFTConfig, model: ModelConfig) -> None:
    """Check numbers and names that the libraries check only after weights and data are read, if at all.

    Raises:
        ValueError: naming the first option with an invalid value.
    """
    if not training.output_dir:
        raise ValueError("output_dir is empty: expected a folder for checkpoints and the model, such as runs/mine")
    least = dict.fromkeys(_AT_LEAST_1, 1) | dict.fromkeys(_AT_LEAST_0, 0)
    values = {name: getattr(training, name) for name in least}
    if model.use_peft:
        least |= {"lora_r": 1, "lora_alpha": 1}
        values |= {"lora_r": model.lora_r, "lora_alpha": model.lora_alpha}
        if not 0 <= model.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {model.lora_dropout:g}: expected a share from 0 to below 1")
    for name, value in values.items():
        if value < least[name]:
            raise ValueError(f"{name} is {value:g}: expected {least[name]} or more")
    if training.max_steps <= 0 and training.num_train_epochs <= 0:
        raise ValueError(
            f"num_train_epochs is {training.num_train_epochs:g}, so there is nothing to train: expected more than 0"
        )
    if training.save_strategy == "steps" and training.save_steps <= 0:
        raise ValueError(f"save_steps is {training.save_steps:g}: expected more than 0; save_strategy=no saves none")
    _check_trackers(training.report_to)


def check_best_metric(training: SFTConfig, given: Collection[str]) -> None:
    """Check `metric_for_best_model`, and set `greater_is_better` by it unless that is given.

    Transformers takes more to be better for every name that does not end in "loss", such as `loss_per_word`.

    Args:
        training: TRL's options; changed in place.
        given: names of the options in the recipe or on the command line.

    Raises:
        ValueError: if the metric is not measured.
    """
    if training.metric_for_best_model is None:
        return
    name = training.metric_for_best_model.removeprefix("eval_")
    if name not in _MEASURED:
        raise ValueError(f"metric_for_best_model is {name}, which is not measured: expected {', '.join(_MEASURED)}")
    if "greater_is_better" not in given:
        training.greater_is_better = _MEASURED[name]


def _check_trackers(names: list[str]) -> None:
    """Check that the trackers of `report_to` exist and are installed.

    Raises:
        ValueError: naming the first that is unknown or not installed.
    """
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            near = difflib.get_close_matches(name, [*INTEGRATION_TO_CALLBACK, "none"], n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected none, or one such as {', '.join(_TRACKERS)}"
            raise ValueError(f"report_to is {name!r}, which is unknown: {hint}")
        if name in _TRACKERS and name not in get_available_reporting_integrations():
            raise ValueError(f"report_to is {name}, which is not installed: pip install {name}, or report_to=none")
