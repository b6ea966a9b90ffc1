"""Builds the trainer of a recipe; the recipe, config and data are checked before the weights are loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from livecc_hf.data.batches.collator import CommentaryCollator
from livecc_hf.data.batches.loader import BatchLoader
from livecc_hf.data.batches.packing import plan_singles

from .announcing import AnnouncementCallback
from .live_commentary import LiveCommentaryCallback
from .model.loading import load_recipe_processor, load_trainable_model
from .model.parts import lora_config, train_full_modules_in_float32
from .optim import MuonAdamW, muon_groups
from .rows import open_run_data, shared_query
from .saving.finishing import AdapterFinisher, ModelFinisher
from .saving.pushing import RunPush
from .saving.run_identity import identify_run
from .skipping import SkipLedger

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    from .options.recipe import Recipe
    from .trainer import LiveCCTrainer

logger = logging.getLogger(__name__)


def build_trainer(recipe: Recipe) -> LiveCCTrainer:
    """Open the data, load model and processor, and build the trainer.

    Raises:
        ValueError: if an option, the model or the data is invalid.
        FileNotFoundError: if a dataset is missing.
    """
    from transformers import set_seed

    from .trainer import LiveCCTrainer

    ours, training = recipe.ours, recipe.training
    processor, config, notes = load_recipe_processor(recipe)
    data = open_run_data(recipe, processor)
    if query := shared_query(recipe.data):
        processor.default_query = query  # saved with the model, which is then asked as it was trained
    for note in notes:
        logger.warning(note)
    set_seed(training.seed)
    model = load_trainable_model(recipe, config)
    keeps_float32 = training.deepspeed_plugin is not None  # DeepSpeed keeps its own copies of the weights
    if not recipe.model.use_peft and not keeps_float32 and model.dtype.itemsize < 4:
        logger.warning(
            "the weights are updated in %s, which is too coarse for small steps: set dtype=float32 (with bf16=true, "
            "the run still computes in bfloat16)",
            str(model.dtype).removeprefix("torch."),
        )
    collator = CommentaryCollator(
        config, processor.tokenizer.pad_token_id, training.pad_to_multiple_of, images_as_videos=True
    )
    loader, held_out_loader = BatchLoader(data.train, data.packs, collator), None
    if data.held_out is not None:
        batch = training.per_device_eval_batch_size * training.world_size
        # Pad the last batch with empty rows; otherwise accelerate pads it with repeated samples.
        held_out_loader = BatchLoader(data.held_out, plan_singles(len(data.held_out)).padded(batch), collator)
    finisher = (AdapterFinisher if recipe.model.use_peft else ModelFinisher)(config, processor, recipe)
    trainer = LiveCCTrainer(
        model=model,
        args=training,
        data_collator=loader,
        train_dataset=loader.dataset(data.row_tokens),
        processing_class=processor,
        optimizers=(_muon(recipe, model), None),
        peft_config=lora_config(model, recipe.model, ours.train_parts) if recipe.model.use_peft else None,
        ledger=SkipLedger(training.output_dir, ours.max_skipped, len(data.train)),
        identity=identify_run(recipe, data.train, data.packs),
        finish_save=finisher,
        hub=RunPush(ours, training, recipe.model) if training.push_to_hub else None,
        held_out_loader=held_out_loader,
        callbacks=[AnnouncementCallback(len(data.train), len(data.held_out or ()), len(data.packs))],
    )
    finisher.trainer = trainer
    if recipe.model.use_peft and not keeps_float32 and (training.bf16 or training.fp16):
        train_full_modules_in_float32(trainer.model)
    commentary = data.held_out and LiveCommentaryCallback.of_data(data.held_out, ours.commentary_clips, trainer)
    if commentary:
        trainer.add_callback(commentary)
    return trainer


def _muon(recipe: Recipe, model: LiveCCForConditionalGeneration) -> MuonAdamW | None:
    """Return the Muon optimizer, or `None` if the trainer should create the optimizer."""
    ours, training = recipe.ours, recipe.training
    if ours.optimizer != "muon":
        return None
    groups = muon_groups(model, ours.muon_learning_rate, training.learning_rate, training.weight_decay)
    return MuonAdamW(groups, lr=training.learning_rate)
