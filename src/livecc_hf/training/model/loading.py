"""Loads the model a recipe starts from: first config and processor, later the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parts import prepare_quantized, quantization_config, set_trainable

if TYPE_CHECKING:
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

    from ..options.recipe import Recipe


def load_recipe_processor(recipe: Recipe) -> tuple[StreamingProcessor, LiveCCConfig, list[str]]:
    """Load processor and config of the model a recipe starts from, and messages about them to log.

    Raises:
        ValueError: if no model is given, it is not a LiveCC model, or its position scheme is for inference only.
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
            f"{source} has position scheme 'reference', which is for inference only: set position_scheme to "
            "sequential (how released LiveCC weights were trained) or mrope in the recipe"
        )
    processor = checkpoint.load_processor()
    if config.message_end_token_id is None:
        config.message_end_token_id = processor.end_id
    return processor, config, notes


def load_trainable_model(recipe: Recipe, config: LiveCCConfig) -> LiveCCForConditionalGeneration:
    """Load a recipe's model, quantised if the recipe asks for it, with only `train_parts` trainable.

    The model gets the lean vision tower (`use_lean_vision`), packed attention if the recipe packs rows, and Liger's
    kernels if `use_liger_kernel` is on.

    Raises:
        ValueError: if a part is unknown, or weights of this precision cannot be trained.
    """
    from accelerate import PartialState

    from livecc_hf.acceleration.vision import use_lean_vision
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    from .liger import apply_liger
    from .packed_attention import use_packed_attention

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
    use_lean_vision(model.model.visual)
    if recipe.packing:
        use_packed_attention(model)
    if recipe.training.use_liger_kernel:
        apply_liger(model)
        recipe.training.use_liger_kernel = False  # the trainer must not apply it again
    return model
