"""Opens the data of a run, splits it into training and held-out samples, and plans the rows."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from livecc_hf.data.batches.packing import Packs, plan_packs, plan_singles, token_counts
from livecc_hf.data.dataset import TrainingData, open_data
from livecc_hf.data.formats.jsonl import default_cache
from livecc_hf.data.samples.placeholder import N_PLACEHOLDER_TOKENS
from livecc_hf.data.sources import narrated, tiny  # noqa: F401  (importing registers the sources)
from livecc_hf.modeling.grammar import TURN_FRAMES

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from livecc_hf.modeling.processing_livecc import StreamingProcessor

    from .options.recipe import Recipe

logger = logging.getLogger(__name__)

_TURN_TEXT_TOKENS = 64  # lower bound for the text tokens of the first turn


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        train: the training samples.
        held_out: the held-out samples; `None` if there are none.
        packs: the indices of the training samples in each row.
        row_tokens: tokens of each row, int (number of rows,); `None` if not counted.
    """

    train: TrainingData
    held_out: TrainingData | None
    packs: Packs
    row_tokens: np.ndarray | None


def rows_per_step(training: TrainingArguments) -> int:
    """Return the rows in an optimizer step, over all processes."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size


def shared_query(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the query of a recipe's training data, if all entries are folders with the same one; otherwise `None`."""
    queries = {entry.get("query") if entry.get("source") == "folder" else None for entry in entries}
    return queries.pop() if len(queries) == 1 else None


def open_run_data(recipe: Recipe, processor: StreamingProcessor) -> RunData:
    """Open a recipe's data and plan the rows.

    Raises:
        ValueError: see `open_samples`, or if an epoch would have no step.
        FileNotFoundError: see `open_samples`.
    """
    train, held_out = open_samples(recipe, processor)
    packs, row_tokens = _plan_rows(recipe, train)
    n_together = recipe.training.per_device_train_batch_size * recipe.training.world_size
    if recipe.training.dataloader_drop_last and len(packs) < n_together:
        raise ValueError(
            f"the data have {len(packs)} rows, fewer than the {n_together} of a batch over all processes, and "
            "dataloader_drop_last leaves out incomplete ones: set it to false, or lower per_device_train_batch_size"
        )
    return RunData(train, held_out, packs, row_tokens)


def open_samples(recipe: Recipe, processor: StreamingProcessor) -> tuple[TrainingData, TrainingData | None]:
    """Open a recipe's data; return the training and the held-out samples.

    Raises:
        ValueError: if an entry is malformed or empty, or the smallest clip does not fit a row.
        FileNotFoundError: if a dataset is missing.
    """
    ours, training = recipe.ours, recipe.training
    _check_token_limit(recipe, processor)
    options = ours.encode_options(training.max_length)
    train = open_data(recipe.data, processor, options, recipe.data_seed)
    held_out = None
    if ours.eval_data:
        held_out = open_data(recipe.eval_data, processor, options, recipe.data_seed, n_before=len(recipe.data))
    elif ours.held_out:
        train, held_out = _split(train, ours.held_out, recipe.data_seed)
    return train, held_out


def _check_token_limit(recipe: Recipe, processor: StreamingProcessor) -> None:
    """Check that a row can hold at least the first turn of a clip.

    Raises:
        ValueError: if `max_length` is too small.
    """
    limit = recipe.training.max_length
    if limit is None:
        return
    pixels = recipe.ours.min_pixels or processor.video_processor.size["shortest_edge"]
    if recipe.ours.max_pixels is not None:
        pixels = min(pixels, recipe.ours.max_pixels)
    side_px = processor.video_processor.patch_size * processor.video_processor.merge_size
    n_pairs = processor.find_grammar().first_turn_frames // TURN_FRAMES
    least = n_pairs * (pixels // side_px**2) + _TURN_TEXT_TOKENS
    if limit < least:
        raise ValueError(
            f"max_length is {limit} tokens, but the first turn of a clip alone takes about {least} "
            f"({pixels} pixels a frame): raise max_length, or lower min_pixels"
        )


def _split(data: TrainingData, n_held_out: int, seed: int) -> tuple[TrainingData, TrainingData]:
    """Draw `n_held_out` distinct samples; return the remaining data and the drawn samples.

    Raises:
        ValueError: if no sample would be left to train on.
    """
    items = np.stack([data.part_of, data.row_of], axis=1)  # a weight above 1 repeats items
    distinct, first, which = np.unique(items, axis=0, return_index=True, return_inverse=True)
    if n_held_out >= len(distinct):
        most = len(distinct) - 1
        fewer = f"set held_out to {max(most // 10, 1)}, at most {most}, or to" if most else "add videos, or set it to"
        raise ValueError(
            f"held_out is {n_held_out}, but the data have only {len(distinct)} samples, and some have to be left to "
            f"train on: {fewer} 0 with eval_strategy=no to measure nothing"
        )
    chosen = np.random.default_rng(seed).permutation(len(distinct))[:n_held_out]
    is_held_out = np.isin(which.reshape(-1), chosen)
    return data.select(np.flatnonzero(~is_held_out)), data.select(np.sort(first[chosen]))


def _plan_rows(recipe: Recipe, data: TrainingData) -> tuple[Packs, np.ndarray | None]:
    """Return the samples of each row, and the tokens of each row if packing or batching by length needs them."""
    training = recipe.training
    by_length = training.train_sampling_strategy == "batch_rebalance"
    if not recipe.packing and not by_length:
        return plan_singles(len(data)), None
    with training.main_process_first(desc="counting tokens"):
        counts = token_counts(
            len(data),
            data.count_tokens,
            _counts_file(data),
            n_workers=training.dataloader_num_workers or os.cpu_count() or 1,
            recount=training.local_process_index == 0,
        )
    # Unusable and too long samples keep their place in a row; the loader skips them.
    counts = np.where(counts == 0, N_PLACEHOLDER_TOKENS, np.minimum(counts, training.max_length or counts.max()))
    if not recipe.packing:
        return plan_singles(len(data)), counts
    packs = plan_packs(counts, training.max_length, recipe.data_seed)
    logger.info("packed %d samples into %d rows of at most %d tokens", len(data), len(packs), training.max_length)
    return packs, packs.row_lengths(counts)


def _counts_file(data: TrainingData) -> Path:
    """Return the cache file of token counts for exactly this data and this processor."""
    processor = data.processor
    described = f"{data.fingerprint()} {len(processor.tokenizer)} {processor.to_json_string()}"
    key = hashlib.sha256(described.encode()).hexdigest()[:16]
    return default_cache() / f"tokens-{key}.npy"
