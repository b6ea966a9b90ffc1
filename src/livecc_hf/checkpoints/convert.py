"""Turns a published checkpoint of LiveCC or of a backbone into a model folder of ours, code included."""

from __future__ import annotations

import os
from pathlib import Path

from ..modeling.grammar import LIVECC
from ..utils.output_folder import check_new_folder
from .cards import CardFacts, short_name, write_card
from .checkpoint import open_checkpoint
from .config import stored_dtype


def convert_checkpoint(
    source: str | os.PathLike,
    out: str | os.PathLike,
    position_scheme: str | None = None,
    max_shard_size: str = "2GB",
    grammar: str | None = None,
) -> Path:
    """Write `source` as a model folder that loads with `trust_remote_code=True` and without this package.

    The weights are held in memory once, and one shard of them on its way to the disk.

    Args:
        source: a folder or Hub id with a checkpoint of LiveCC, Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
        out: the folder to write; must not exist, or be empty.
        position_scheme: the scheme to save. May be left out where the source names LiveCC (`reference`)
            or is a folder of ours (kept).
        max_shard_size: largest weight file, such as `2GB`.
        grammar: how the weights write a commentary as a chat, saved with the processor. May be left out where the
            source names StreamingVLM (`streamingvlm`), is a folder of ours (kept), or speaks as LiveCC does.

    Returns:
        The folder written.

    Raises:
        ModelLoadError: if the source cannot be loaded.
        ValueError: if the scheme must be given, the grammar is unknown, or `out` is not empty.
    """
    out = Path(out)
    checkpoint = open_checkpoint(source, position_scheme, only_whole=True, grammar=grammar)
    if position_scheme is None and checkpoint.is_scheme_guessed:
        raise ValueError(
            f"{source} does not name LiveCC, so its position scheme is not known: give --position-scheme mrope for "
            "Qwen2-VL weights, reference to run LiveCC weights as published, sequential to train them further"
        )
    check_new_folder(out)
    processor = checkpoint.load_processor()
    model = checkpoint.load_model("cpu", stored_dtype(checkpoint.config), processor=processor)
    model.save_pretrained(out, max_shard_size=max_shard_size)
    processor.save_pretrained(out)
    name, scheme = short_name(checkpoint.source), checkpoint.config.position_scheme
    summary = f"Converted from `{name}` by livecc-hf."
    if processor.grammar != LIVECC.name:
        summary += f" Grammar: `{processor.grammar}`."
    facts = CardFacts(f"{name}, for live commentary", summary, scheme, model.config.backbone, checkpoint.source)
    write_card(out, facts)
    return out
