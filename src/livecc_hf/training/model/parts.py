"""Selects which parts of a model train, in full or with LoRA, and how the base is quantised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from livecc_hf.utils.extras import require_extra

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn
    from transformers import BitsAndBytesConfig
    from trl import ModelConfig

    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

PARTS = ("vision", "merger", "language_model")
# Modules that project vision features to the language model; the second projects Qwen3-VL's deepstack features.
_MERGERS = ("model.visual.merger", "model.visual.deepstack_merger_list")
_VISION = "model.visual"
_LANGUAGE = ("model.language_model", "lm_head")
# Never adapted: TRL's loss reads `lm_head.weight` directly and would bypass an adapter.
_HEAD = "lm_head"
# Never quantised: the vision tower is small and most sensitive; TRL's loss reads the head's weight directly.
_FULL_PRECISION = (_VISION, _HEAD)


def part_of(name: str) -> str:
    """Return the part that a module or parameter of the model belongs to.

    Args:
        name: as in `model.named_parameters()`, such as `model.visual.merger.ln_q.weight`.

    Raises:
        ValueError: if it does not belong to any part.
    """
    if any(_is_under(name, prefix) for prefix in _MERGERS):
        return "merger"
    if _is_under(name, _VISION):
        return "vision"
    if any(_is_under(name, prefix) for prefix in _LANGUAGE):
        return "language_model"
    raise ValueError(f"{name!r} is not in any part of a LiveCC model: expected a name under model.* or lm_head")


def check_parts(parts: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct parts in the model's order.

    Raises:
        ValueError: if there are none, or one is unknown.
    """
    parts = (parts,) if isinstance(parts, str) else tuple(parts)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"part {unknown[0]!r} is unknown: expected some of {', '.join(PARTS)}")
    if not parts:
        raise ValueError(f"no part of the model is trained: name some of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in parts)


def set_trainable(model: LiveCCForConditionalGeneration, parts: Sequence[str]) -> int:
    """Make all parameters of these parts trainable, and freeze the rest.

    Args:
        model: the model, not quantised, without an adapter.
        parts: some of `vision` (the vision tower without its merger), `merger` (the projection of its features to the
            language model) and `language_model` (with embeddings and head, tied or not).

    Returns:
        The number of trainable parameters; tied ones count once.

    Raises:
        ValueError: if there are no parts, or one is unknown.
    """
    parts = check_parts(parts)
    n_trainable = 0
    for name, parameter in model.named_parameters():
        trains = part_of(name) in parts
        parameter.requires_grad_(trains)
        n_trainable += trains * parameter.numel()
    return n_trainable


def lora_config(
    model: LiveCCForConditionalGeneration, model_config: ModelConfig, parts: Sequence[str] = ("language_model",)
) -> LoraConfig:
    """Return the LoRA config for the linear layers of exactly these parts, with the recipe's options.

    `lora_target_modules` chooses among these layers by the end of their names (`q_proj`) or, if it is one string, by
    a regular expression over whole names; `all-linear` is all of them. The head and the embeddings are never adapted;
    `lora_modules_to_save` can train them, or any other module, in full.

    Args:
        model: the model to adapt; its module names are searched.
        model_config: TRL's model options of the recipe.
        parts: as in :func:`set_trainable`.

    Raises:
        ValueError: if a part is unknown, or a target or module to save matches nothing in these parts.
        ImportError: if peft is missing.
    """
    require_extra("train", "LoRA", "peft")
    from peft import LoraConfig

    parts = check_parts(parts)
    linear = _linear_layers(model, parts)
    chosen = _choose(linear, model_config.lora_target_modules, parts)
    options = {}
    if model_config.lora_target_parameters is not None:
        options["target_parameters"] = model_config.lora_target_parameters
    modules_to_save = model_config.lora_modules_to_save
    names = [name for name, _ in model.named_modules()]
    for module in modules_to_save or ():
        if any(_ends_with(name, module) for name in chosen if module):
            raise ValueError(
                f"lora_modules_to_save {module!r} names layers that get adapters: take it out, or restrict "
                "lora_target_modules to others"
            )
        if not module or not any(_ends_with(name, module) for name in names):
            raise ValueError(
                f"lora_modules_to_save {module!r} is not a module of the model: expected one such as lm_head or merger"
            )
    is_tied = model.config.tie_word_embeddings
    return LoraConfig(
        task_type=model_config.lora_task_type,
        r=model_config.lora_r,
        target_modules=_as_regex(chosen, names),
        lora_alpha=model_config.lora_alpha,
        lora_dropout=model_config.lora_dropout,
        bias="none",
        use_rslora=model_config.use_rslora,
        use_dora=model_config.use_dora,
        modules_to_save=modules_to_save,
        # Otherwise peft would train a copy of one and leave the other unchanged.
        ensure_weight_tying=is_tied
        and any(name.endswith(("lm_head", "embed_tokens")) for name in modules_to_save or ()),
        **options,
    )


def train_full_modules_in_float32(model: nn.Module) -> None:
    """Convert the modules that train in full next to an adapter (`lora_modules_to_save`) to float32, in place.

    They are copies in the base's dtype, and bfloat16 is too coarse for small updates. peft converts only its own
    layers, and TRL converts everything that trains on a quantised base to bfloat16.

    Args:
        model: a model with an adapter, which computes under autocast.
    """
    from peft.utils import ModulesToSaveWrapper

    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for parameter in wrapper.modules_to_save.parameters():
                parameter.data = parameter.data.float()


def quantization_config(
    model_config: ModelConfig, parts: Sequence[str] = ("language_model",)
) -> BitsAndBytesConfig | None:
    """Return the quantisation config of the base under the adapter; `None` if it is not quantised.

    Only linear layers of the language model are quantised; vision tower, merger, head and modules that train in full
    keep the run's dtype. 4-bit layers compute in float16 if that is the run's dtype, otherwise in bfloat16.

    Raises:
        ValueError: if both 4 and 8 bits are on, or quantisation is on without LoRA.
        ImportError: if bitsandbytes is missing.
    """
    import torch
    from transformers import BitsAndBytesConfig

    parts = check_parts(parts)
    four, eight = model_config.load_in_4bit, model_config.load_in_8bit
    if four and eight:
        raise ValueError("load_in_4bit and load_in_8bit are both on: choose one")
    if not four and not eight:
        return None
    option = "load_in_4bit" if four else "load_in_8bit"
    if not model_config.use_peft:
        raise ValueError(
            f"{option} is on without LoRA, but quantised weights cannot be trained ({', '.join(parts)}): set "
            f"use_peft=true to train an adapter on them, or {option}=false"
        )
    require_extra("quantize", option, "bitsandbytes")
    skipped = [*_FULL_PRECISION, *(model_config.lora_modules_to_save or ())]
    if eight:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    options = {}
    if model_config.bnb_4bit_quant_storage is not None:
        options["bnb_4bit_quant_storage"] = model_config.bnb_4bit_quant_storage
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=model_config.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=model_config.use_bnb_nested_quant,
        bnb_4bit_compute_dtype=torch.float16 if model_config.dtype == "float16" else torch.bfloat16,
        llm_int8_skip_modules=skipped,
        **options,
    )


def prepare_quantized(model: LiveCCForConditionalGeneration, source: str = "the base model") -> None:
    """Prepare a base loaded with :func:`quantization_config` for `SFTTrainer(peft_config=...)`.

    This freezes the base and fails early if the device cannot run 4-bit layers. It replaces peft's
    `prepare_model_for_kbit_training`, which also casts embeddings, head and vision tower to float32 (7 GB instead of
    3.5 for the 7B model). TRL enables the input gradients that gradient checkpointing needs.

    Args:
        model: the loaded model.
        source: the model's name in error messages.

    Raises:
        ValueError: if 4-bit layers cannot run on the model's device.
    """
    from livecc_hf.checkpoints.placement import check_four_bit

    model.requires_grad_(False)
    if getattr(model, "is_loaded_in_4bit", False):
        check_four_bit(source, model, str(model.device))


def _linear_layers(model: nn.Module, parts: tuple[str, ...]) -> list[str]:
    from torch import nn

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not _is_under(name, _HEAD) and part_of(name) in parts
    ]


def _choose(linear: list[str], targets: str | Iterable[str] | None, parts: tuple[str, ...]) -> list[str]:
    """Return the layers that `lora_target_modules` selects, among those that may be adapted."""
    if not targets or targets == "all-linear":
        return linear
    chosen = set()
    for target in [targets] if isinstance(targets, str) else targets:
        try:
            pattern = re.compile(target) if isinstance(targets, str) else None
        except re.error as error:
            raise ValueError(f"lora_target_modules {target!r} is not a regular expression: {error}") from error
        matched = [n for n in linear if _ends_with(n, target) or (pattern and pattern.fullmatch(n))]
        if not matched:
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear if not name[-1].isdigit()}))
            raise ValueError(
                f"lora_target_modules {target!r} matches no linear layer of {', '.join(parts)}: expected some of "
                f"{known}, or all-linear (the head and the embeddings cannot be adapted; other parts have to be "
                "named in train_parts)"
            )
        chosen.update(matched)
    return [name for name in linear if name in chosen]


def _as_regex(chosen: list[str], names: list[str]) -> str:
    """Return a regular expression over whole module names that matches exactly the chosen ones.

    Equal blocks share an alternative, so that the adapter's config stays readable.
    """
    patterns = {re.sub(r"\\\.(layers|blocks)\\\.\d+\\\.", r"\\.\1\\.\\d+\\.", re.escape(name)) for name in chosen}
    regex = "|".join(sorted(patterns))
    if {name for name in names if re.fullmatch(regex, name)} == set(chosen):
        return regex
    return "|".join(re.escape(name) for name in chosen)  # only some blocks were chosen


def _is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
