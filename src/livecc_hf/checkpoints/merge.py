"""Merges an adapter into its base and writes a whole model, which needs neither peft nor the base."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.output_folder import check_new_folder, new_folder
from .adapters import require_peft
from .cards import CardFacts, read_head, read_training, short_name, taken_over, write_card
from .checkpoint import open_checkpoint
from .config import stored_dtype

if TYPE_CHECKING:
    import torch

_DTYPES = ("float32", "bfloat16", "float16")


def merge_adapter(
    adapter: str | os.PathLike,
    out: str | os.PathLike,
    base: str | os.PathLike | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: str = "2GB",
) -> Path:
    """Merge an adapter into its base, and write the result as a model folder in the adapter's position scheme.

    The base is loaded without quantisation, also for an adapter of a QLoRA run. The merged model's outputs then differ
    from those on the 4-bit base by the error of the quantisation.

    Args:
        adapter: folder or Hub id of the adapter.
        out: the folder to write; it must not exist or be empty.
        base: folder or Hub id of the base; default: the base that the adapter names.
        dtype: dtype of the written weights: `float32`, `bfloat16` or `float16`, as a string or of torch; default: the
            base's.
        max_shard_size: largest size of a weight file, such as `2GB`.

    Returns:
        The folder written.

    Raises:
        ModelLoadError: if the adapter or its base cannot be loaded, they do not fit together, or the base is quantised.
        ValueError: if `adapter` is not an adapter, `dtype` is unknown, or `out` is not an empty folder.
    """
    out = Path(out)
    checkpoint = open_checkpoint(adapter, base=base)
    source = checkpoint.source
    if checkpoint.adapter is None:
        raise ValueError(
            f"{source} is not an adapter but a whole model: expected a folder or Hub id with an adapter_config.json, "
            "as `livecc train` writes with use_peft=true"
        )
    _check_out(source, out)
    if dtype is not None and str(dtype).removeprefix("torch.") not in _DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown: expected one of {', '.join(_DTYPES)}")
    require_peft()
    checkpoint.check_unquantized()
    processor = checkpoint.load_processor()
    dtype = dtype or stored_dtype(checkpoint.config)
    model = checkpoint.load_model("cpu", dtype, merge=True, processor=processor)
    name = short_name(checkpoint.base)
    summary = f"Adapter `{short_name(source)}` merged into `{name}` by livecc-hf."
    facts = CardFacts(
        f"{name}, for live commentary",
        summary,
        model.config.position_scheme,
        model.config.backbone,
        source=checkpoint.base,
        relation="finetune",
        source_revision=checkpoint.revision,
        training=read_training(source),
        metadata=taken_over(read_head(source)),
    )
    with new_folder(out) as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        write_card(folder, facts)
    return out


def _check_out(source: str, out: Path) -> None:
    if Path(source).expanduser().is_dir() and out.resolve() == Path(source).expanduser().resolve():
        raise ValueError(f"{out} is the adapter itself: give another folder to write")
    check_new_folder(out)
