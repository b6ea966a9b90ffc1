"""Converts a published checkpoint of LiveCC or a backbone to a model folder that includes the model's code."""

from __future__ import annotations

import os
from pathlib import Path

from ..modeling.grammar import LIVECC
from ..utils.output_folder import check_new_folder, new_folder
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
    """Write a checkpoint as a model folder that loads with `trust_remote_code=True` and without this package.

    Needs memory for the weights, and for one shard while it is written.

    Args:
        source: folder or Hub id of a checkpoint of LiveCC, Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
        out: the folder to write; it must not exist or be empty.
        position_scheme: the position scheme to save. Default: `reference` if the source's name contains LiveCC, the
            saved scheme of a model of this package, or the only scheme of the backbone.
        max_shard_size: largest size of a weight file, such as `2GB`.
        grammar: the chat format of a commentary that the weights were trained on, saved with the processor. Default:
            `streamingvlm` if the source's name contains it, the saved grammar of a model of this package, else
            `livecc`.

    Returns:
        The folder written.

    Raises:
        ModelLoadError: if the source cannot be loaded.
        ValueError: if the position scheme is unknown and not given, the grammar is unknown, or `out` is not an empty
            folder.
    """
    out = Path(out)
    checkpoint = open_checkpoint(source, position_scheme, only_whole=True, grammar=grammar)
    if position_scheme is None and checkpoint.is_scheme_guessed:
        raise ValueError(
            f"the name of {source} does not contain LiveCC, so its position scheme is unknown: give --position-scheme "
            "mrope for Qwen2-VL weights, reference to run LiveCC weights as published, sequential to train them further"
        )
    check_new_folder(out)
    processor = checkpoint.load_processor()
    model = checkpoint.load_model("cpu", stored_dtype(checkpoint.config), processor=processor)
    name, scheme = short_name(checkpoint.source), checkpoint.config.position_scheme
    summary = f"Converted from `{name}` by livecc-hf."
    if processor.grammar != LIVECC.name:
        summary += f" Grammar: `{processor.grammar}`."
    facts = CardFacts(f"{name}, for live commentary", summary, scheme, model.config.backbone, checkpoint.source)
    with new_folder(out) as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        write_card(folder, facts)
    return out
