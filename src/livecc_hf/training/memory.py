"""Turns out-of-memory errors in training into one that names the options that reduce memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from livecc_hf.utils.device_errors import is_out_of_memory
from livecc_hf.utils.text import one_line

from .options.recipe import Recipe


class TrainingMemoryError(RuntimeError):
    """A step did not fit into memory."""


@contextlib.contextmanager
def explain_memory_errors(recipe: Recipe) -> Iterator[None]:
    """Turn out-of-memory errors into one that names the options to change and their current values.

    Raises:
        TrainingMemoryError: if the wrapped code runs out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingMemoryError(f"out of memory ({one_line(error, 120)}); {_knobs(recipe)}") from error


def _knobs(recipe: Recipe) -> str:
    ours, training, model = recipe.ours, recipe.training, recipe.model
    knobs = []
    if training.per_device_train_batch_size > 1:
        knobs.append(
            f"per_device_train_batch_size={training.per_device_train_batch_size} (lower it and raise "
            "gradient_accumulation_steps by the same factor)"
        )
    if not training.activation_checkpointing:
        knobs.append("activation_checkpointing=true")
    knobs.append(f"max_length={training.max_length} (tokens in a row)")
    knobs.append(f"max_pixels={ours.max_pixels} and max_frames={ours.max_frames} (tokens in a clip)")
    if not model.use_peft:
        knobs.append("use_peft=true (LoRA)")
    elif not (model.load_in_4bit or model.load_in_8bit):
        knobs.append("load_in_4bit=true (QLoRA)")
    if model.dtype == "float32":
        knobs.append("dtype=bfloat16")
    return f"to need less: {'; '.join(knobs)}"
