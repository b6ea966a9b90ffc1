"""Turns a published Qwen2-VL / LiveCC checkpoint into a model folder of ours, code included."""

from __future__ import annotations

import os
from pathlib import Path

from ..utils.output_folder import check_new_folder
from .cards import CardFacts, short_name, write_card
from .loading import ModelLoadError, load_model, load_processor, published_scheme, read_config_dict


def convert_checkpoint(
    source: str | os.PathLike,
    out: str | os.PathLike,
    position_scheme: str | None = None,
    max_shard_size: str = "2GB",
) -> Path:
    """Write `source` as a model folder that loads with `trust_remote_code=True` and without this package.

    The weights are held in memory once, and one shard of them on its way to the disk.

    Args:
        source: a folder or Hub id with a Qwen2-VL or LiveCC checkpoint.
        out: the folder to write; must not exist, or be empty.
        position_scheme: the scheme to save. May be left out where the source names LiveCC (`reference`)
            or is a folder of ours (kept).
        max_shard_size: largest weight file, such as `2GB`.

    Returns:
        The folder written.

    Raises:
        ModelLoadError: if the source cannot be loaded.
        ValueError: if the scheme must be given, or `out` is not empty.
    """
    source, out = str(source), Path(out)
    values = read_config_dict(source)
    if position_scheme is None and values["model_type"] == "qwen2_vl":
        position_scheme = published_scheme(source, values)
        if position_scheme is None:
            raise ValueError(
                f"{source} does not name LiveCC, so its position scheme is not known: give --position-scheme mrope for "
                "Qwen2-VL weights, reference to run LiveCC weights as published, sequential to train them further"
            )
    check_new_folder(out)
    processor = load_processor(source)
    model, info = load_model(
        source, device="cpu", dtype=_stored_dtype(values), position_scheme=position_scheme, processor=processor
    )
    model.save_pretrained(out, max_shard_size=max_shard_size)
    processor.save_pretrained(out)
    name = short_name(source)
    summary = f"Converted from `{name}` by livecc-hf."
    write_card(out, CardFacts(f"{name}, for live commentary", summary, info.position_scheme, source=source))
    return out


def _stored_dtype(config_dict: dict) -> str:
    dtype = config_dict.get("dtype") or config_dict.get("torch_dtype") or "float32"
    return str(dtype).removeprefix("torch.")


__all__ = ["ModelLoadError", "convert_checkpoint"]
