"""Puts a recipe together: data, rows, model, trainer. What can fail fast fails before the weights are read."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from livecc_hf.data.formats.jsonl import default_cache
from livecc_hf.data.unusable import UnusableSample

from ..data.batches.loader import BatchLoader
from ..data.batches.packing import Packs, plan_packs, plan_singles, token_counts
from ..data.dataset import TrainingData, open_data
from ..data.samples.placeholder import N_PLACEHOLDER_TOKENS
from .options.arguments import Recipe, parse_entries
from .saving.run_identity import identify_run

if TYPE_CHECKING:
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

    from .trainer import LiveCCTrainer

logger = logging.getLogger(__name__)

_TURN_TEXT_TOKENS = 64  # what the first turn needs besides its frames, at least


@dataclass(frozen=True)
class RunData:
    """What a run is trained on and measured with.

    Attributes:
        train: the training samples.
        held_out: held-out samples, if there are any.
        packs: which training samples stand in a row.
        row_tokens: tokens of each row, where they were counted.
    """

    train: TrainingData
    held_out: TrainingData | None
    packs: Packs
    row_tokens: np.ndarray | None


def load_recipe_processor(recipe: Recipe) -> tuple[StreamingProcessor, LiveCCConfig, list[str]]:
    """Reads processor and config of the model that a recipe starts from.

    Raises:
        ValueError: if no model is named, it is none of ours, or its scheme is for inference only.
    """
    from livecc_hf.checkpoints.checkpoint import open_checkpoint

    source = recipe.model.model_name_or_path
    if not source:
        raise ValueError("model_name_or_path is missing; name the folder or Hub id to start from")
    revision = None if Path(source).expanduser().is_dir() else recipe.model.model_revision
    chosen = recipe.ours.position_scheme
    checkpoint = open_checkpoint(source, chosen, revision=revision, only_whole=True)
    config, own, notes = checkpoint.config, checkpoint.own_scheme, list(checkpoint.notes)
    if chosen not in (None, own):
        notes.append(f"the recipe's position_scheme '{chosen}' overrides '{own}', the scheme of {source}")
    if config.position_scheme == "reference":
        raise ValueError(
            f"{source} runs in position scheme 'reference', which is for inference only: set position_scheme to "
            "sequential (how released LiveCC weights were trained) or mrope in the recipe"
        )
    processor = checkpoint.load_processor()
    if config.message_end_token_id is None:
        config.message_end_token_id = processor.end_id
    return processor, config, notes


def open_samples(recipe: Recipe, processor: StreamingProcessor) -> tuple[TrainingData, TrainingData | None]:
    """Opens a recipe's data: what it trains on, and what is held out.

    Raises:
        ValueError: if an entry is malformed, nothing is in it, or the smallest clip does not fit a row.
        FileNotFoundError: if a dataset is missing.
    """
    from livecc_hf.data.sources import narrated, tiny  # noqa: F401  (they register themselves)

    ours, training = recipe.ours, recipe.training
    _check_token_limit(recipe, processor)
    options = ours.encode_options(training.max_length)
    train = open_data(parse_entries(ours.data), processor, options, recipe.data_seed)
    held_out = None
    if ours.eval_data:
        held_out = open_data(parse_entries(ours.eval_data, "eval_data"), processor, options, recipe.data_seed)
    elif ours.held_out:
        train, held_out = _split(train, ours.held_out, recipe.data_seed)
    return train, held_out


def open_run_data(recipe: Recipe, processor: StreamingProcessor) -> RunData:
    """Opens a recipe's data and plans the rows.

    Raises:
        ValueError, FileNotFoundError: as `open_samples`.
    """
    train, held_out = open_samples(recipe, processor)
    packs, row_tokens = _plan_rows(recipe, train)
    return RunData(train, held_out, packs, row_tokens)


def build_trainer(recipe: Recipe) -> LiveCCTrainer:
    """Opens the data, loads model and processor, and puts them into the trainer.

    Raises:
        ValueError: if something in the recipe does not fit.
        FileNotFoundError: if a dataset is missing.
    """
    from transformers import set_seed

    from ..data.batches.collator import CommentaryCollator
    from .model.liger import apply_liger
    from .model.packed_attention import use_packed_attention
    from .model.parts import lora_config
    from .optim import MuonAdamW, muon_groups
    from .saving.finishing import AdapterFinisher, ModelFinisher
    from .saving.pushing import RunPush
    from .skipping import SkipLedger
    from .trainer import LiveCCTrainer

    ours, training = recipe.ours, recipe.training
    processor, config, notes = load_recipe_processor(recipe)
    data = open_run_data(recipe, processor)
    for note in notes:
        logger.warning(note)
    set_seed(training.seed)
    model = load_trainable_model(recipe, config)
    if recipe.packing:
        use_packed_attention(model)
    if training.use_liger_kernel:
        apply_liger(model)
        training.use_liger_kernel = False  # done
    optimizer = None
    if ours.optimizer == "muon":
        groups = muon_groups(model, ours.muon_learning_rate, training.learning_rate, training.weight_decay)
        optimizer = MuonAdamW(groups, lr=training.learning_rate)
    collator = CommentaryCollator(
        config, processor.tokenizer.pad_token_id, training.pad_to_multiple_of, images_as_videos=True
    )
    loader = BatchLoader(data.train, data.packs, collator)
    held_out = None
    if data.held_out is not None:
        batch = training.per_device_eval_batch_size * training.world_size
        # Empty rows at the end, or accelerate fills the last batch with samples a second time.
        held_out = BatchLoader(data.held_out, plan_singles(len(data.held_out)).padded(batch), collator)
    finisher = (AdapterFinisher if recipe.model.use_peft else ModelFinisher)(config, processor, recipe)
    trainer = LiveCCTrainer(
        model=model,
        args=training,
        data_collator=loader,
        train_dataset=loader.dataset(data.row_tokens),
        processing_class=processor,
        optimizers=(optimizer, None),
        peft_config=lora_config(model, recipe.model, ours.train_parts) if recipe.model.use_peft else None,
        ledger=SkipLedger(training.output_dir, ours.max_skipped),
        identity=identify_run(recipe, data.train, len(data.packs)),
        finish_save=finisher,
        hub=RunPush(ours, training, recipe.model) if training.push_to_hub else None,
        held_out_loader=held_out,
    )
    finisher.trainer = trainer
    if data.held_out is not None and ours.commentary_clips:
        _add_commentary(trainer, data.held_out, ours.commentary_clips)
    return trainer


def load_trainable_model(recipe: Recipe, config: LiveCCConfig) -> LiveCCForConditionalGeneration:
    """Loads the model with the parts a recipe trains set to be trained, quantised where it says so.

    Raises:
        ValueError: if a part is unknown, or the precision cannot be trained.
    """
    from accelerate import PartialState

    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    from .model.parts import prepare_quantized, quantization_config, set_trainable

    ours, model_config = recipe.ours, recipe.model
    quantization = quantization_config(model_config, ours.train_parts)
    extra: dict[str, Any] = {}
    if quantization is not None:
        extra = {"quantization_config": quantization, "device_map": {"": PartialState().device}}
    model = LiveCCForConditionalGeneration.from_pretrained(
        model_config.model_name_or_path,
        config=config,
        revision=model_config.model_revision,
        dtype=model_config.dtype or "float32",
        attn_implementation=model_config.attn_implementation,
        **extra,
    )
    if quantization is not None:
        prepare_quantized(model, model_config.model_name_or_path)
    else:
        set_trainable(model, ours.train_parts)
    return model


def inspect(recipe: Recipe) -> str:
    """Returns a recipe's first samples as a person reads them, and writes their frames beside the run's output.

    Raises:
        ValueError: as `open_run_data`.
    """
    from .inspection.report import inspect_samples

    processor, _, notes = load_recipe_processor(recipe)
    for note in notes:
        logger.warning(note)
    data, _ = open_samples(recipe, processor)
    rng = np.random.default_rng(recipe.data_seed)
    chosen = np.sort(rng.permutation(len(data))[: recipe.ours.inspect])
    picture = Path(recipe.training.output_dir) / "inspect.png"
    picture.parent.mkdir(parents=True, exist_ok=True)

    def load(index: int):
        try:
            return data.sample(index)
        except UnusableSample as error:
            return error

    return inspect_samples(((data.origin(index), load(index)) for index in chosen), processor, picture)


def _add_commentary(trainer: LiveCCTrainer, held_out: TrainingData, n_clips: int) -> None:
    """Lets the model comment on the first held-out clips at each evaluation."""
    from livecc_hf.modeling.stream_options import StreamOptions

    from .live_commentary import HeldOutClip, LiveCommentaryCallback

    clips = []
    for index in range(len(held_out)):
        if len(clips) == n_clips:
            break
        try:
            clip = held_out.item(index).clip(held_out.processor, held_out.options)
        except UnusableSample:
            continue
        if clip is not None:
            clips.append(HeldOutClip.from_clip(held_out.origin(index), clip, held_out.options.use_context))
    if clips:
        limits = {"min_pixels": held_out.options.min_pixels, "max_pixels": held_out.options.max_pixels}
        options = StreamOptions(max_new_tokens=32, **limits)
        trainer.add_callback(LiveCommentaryCallback(clips, held_out.processor, trainer=trainer, options=options))


def _check_token_limit(recipe: Recipe, processor: StreamingProcessor) -> None:
    """Refuses a row limit that not even the first turn of a clip fits.

    Raises:
        ValueError: if it does not.
    """
    from livecc_hf.modeling.grammar import FIRST_TURN_FRAMES, PIXELS_PER_TOKEN, TURN_FRAMES

    limit = recipe.training.max_length
    if limit is None:
        return
    pixels = recipe.ours.min_pixels or processor.video_processor.size["shortest_edge"]
    if recipe.ours.max_pixels is not None:
        pixels = min(pixels, recipe.ours.max_pixels)
    least = FIRST_TURN_FRAMES // TURN_FRAMES * (pixels // PIXELS_PER_TOKEN) + _TURN_TEXT_TOKENS
    if limit < least:
        raise ValueError(
            f"max_length is {limit} tokens, but the first turn of a clip alone takes about {least} "
            f"({pixels} pixels a frame): raise max_length, or lower min_pixels"
        )


def _split(data: TrainingData, n_held_out: int, seed: int) -> tuple[TrainingData, TrainingData]:
    """Returns the data without, and only, some samples drawn by the seed."""
    items = np.stack([data.part_of, data.row_of], axis=1)  # an item may come several times, by its weight
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
    """Returns the rows, and their tokens where the recipe needs them counted."""
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
    # What cannot be used, now or for its length, takes its place in a row all the same, and is skipped there.
    counts = np.where(counts == 0, N_PLACEHOLDER_TOKENS, np.minimum(counts, training.max_length or counts.max()))
    if not recipe.packing:
        return plan_singles(len(data)), counts
    packs = plan_packs(counts, training.max_length, recipe.data_seed)
    logger.info("packed %d samples into %d rows of at most %d tokens", len(data), len(packs), training.max_length)
    return packs, packs.row_lengths(counts)


def _counts_file(data: TrainingData) -> Path:
    """Returns where the counts of exactly this data, read with exactly this processor, are kept."""
    processor = data.processor
    described = f"{data.fingerprint()} {len(processor.tokenizer)} {processor.to_json_string()}"
    key = hashlib.sha256(described.encode()).hexdigest()[:16]
    return default_cache() / f"tokens-{key}.npy"
