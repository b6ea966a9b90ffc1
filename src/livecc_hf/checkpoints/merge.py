"""Merges an adapter into its base: a whole model folder that needs neither peft nor the base any more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..messages import one_line
from ..utils.output_folder import check_new_folder
from .adapters import base_of, read_adapter, require_peft
from .cards import CardFacts, read_training, short_name, write_card
from .loading import ModelLoadError, load_processor, load_weights, read_config

if TYPE_CHECKING:
    import torch

    from ..modeling import LiveCCConfig, LiveCCForConditionalGeneration

_DTYPES = ("float32", "bfloat16", "float16")


def merge_adapter(
    adapter: str | os.PathLike,
    out: str | os.PathLike,
    base: str | os.PathLike | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: str = "2GB",
) -> Path:
    """Write an adapter and its base as one model folder, in the adapter's position scheme.

    The base is taken as it is stored, never quantised: this is where an adapter of a QLoRA run belongs, too. Its
    outputs then differ from those over the 4-bit base it was trained on by what the quantisation had lost.

    Args:
        adapter: folder or Hub id of the adapter.
        out: the folder to write; must not exist, or be empty.
        base: folder or Hub id of the base, if not where the adapter says.
        dtype: of the weights written: `float32`, `bfloat16` or `float16`, or the same of torch; default: the base's.
        max_shard_size: largest weight file, such as `2GB`.

    Returns:
        The folder written.

    Raises:
        ModelLoadError: if the adapter or its base cannot be loaded, or do not fit together.
        ValueError: if `adapter` is none, the base is quantised, or `out` is not empty.
    """
    source, out = str(adapter), Path(out)
    info = read_adapter(source)
    if info is None:
        read_config(source)  # says what is wrong with a source that is nothing at all
        raise ValueError(
            f"{source} is no adapter but a whole model: expected a folder or Hub id with an adapter_config.json, as "
            "`livecc train` writes with use_peft=true"
        )
    _check_out(source, out)
    if dtype is not None and str(dtype).removeprefix("torch.") not in _DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown: expected one of {', '.join(_DTYPES)}")
    require_peft()
    config, _ = read_config(source, base=base)  # fails early if the base is missing
    base_source, revision = base_of(info, base)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"{base_source} holds quantised weights, which an adapter cannot be merged into exactly: give the "
            "unquantised model with base / --base"
        )
    processor = load_processor(source, base)
    if config.message_end_token_id is None:
        config.message_end_token_id = processor.end_id
    model = load_weights(base_source, config, "cpu", dtype or _stored_dtype(config), revision=revision)
    model = _merged(model, source)
    model.save_pretrained(out, max_shard_size=max_shard_size)
    processor.save_pretrained(out)
    name = short_name(base_source)
    summary = f"Adapter `{short_name(source)}` merged into `{name}` by livecc-hf."
    facts = CardFacts(
        f"{name}, for live commentary",
        summary,
        config.position_scheme,
        source=base_source,
        relation="finetune",
        source_revision=revision,
        training=read_training(source),
    )
    write_card(out, facts)
    return out


def _merged(model: LiveCCForConditionalGeneration, source: str) -> LiveCCForConditionalGeneration:
    """Fold an adapter into a base's weights: in float32, whatever the base's dtype, rounded at the end."""
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    try:
        wrapped = PeftModel.from_pretrained(model, source, torch_device="cpu")
        expected, saved = set(get_peft_model_state_dict(wrapped)), set(load_peft_weights(source, device="cpu"))
    except Exception as error:  # damaged files fail in as many ways as there are formats
        raise ModelLoadError(
            f"{source}: the adapter cannot be loaded (damaged, or made for another base?): {one_line(error)}"
        ) from error
    if expected != saved:
        raise ModelLoadError(
            f"{source}: {len(expected ^ saved)} adapter weights do not fit the base, such as "
            f"{min(expected ^ saved)}: it was made for another base model; name the right one with base / --base"
        )
    try:
        return wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:  # weights that are not finite, or a kind of adapter that does not merge
        raise ModelLoadError(f"{source}: the adapter cannot be merged: {error}") from error


def _check_out(source: str, out: Path) -> None:
    if Path(source).expanduser().is_dir() and out.resolve() == Path(source).expanduser().resolve():
        raise ValueError(f"{out} is the adapter itself: give another folder to write")
    check_new_folder(out)


def _stored_dtype(config: LiveCCConfig) -> str:
    return str(config.dtype or "float32").removeprefix("torch.")
