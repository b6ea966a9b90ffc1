"""Loads a model and its processor: ours, or a published checkpoint of LiveCC or a backbone, by folder or Hub id."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint, open_checkpoint
from .errors import ModelLoadError

if TYPE_CHECKING:
    import torch

    from ..modeling import LiveCCForConditionalGeneration, StreamingProcessor

__all__ = ["LoadInfo", "ModelLoadError", "load_model", "load_model_and_processor", "load_processor"]


@dataclass(frozen=True)
class LoadInfo:
    """What was loaded.

    Attributes:
        source: the folder or Hub id.
        position_scheme: the scheme in force.
        notes: what a user should know, one line each; empty for a folder of our own.
    """

    source: str
    position_scheme: str
    notes: list[str] = field(default_factory=list)


def load_model_and_processor(
    name_or_path: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    load_in_4bit: bool = False,
    position_scheme: str | None = None,
    base: str | os.PathLike | None = None,
    merge: bool = False,
) -> tuple[LiveCCForConditionalGeneration, StreamingProcessor, LoadInfo]:
    """Load a model and its processor, ready to stream.

    Args:
        name_or_path: a folder or a Hub id that holds a LiveCC model of ours, a published checkpoint of LiveCC,
            Qwen2-VL, Qwen2.5-VL or Qwen3-VL, or an adapter, which is put on the base it names. Such a model runs in the
            position scheme of the adapter, and `livecc_hf.checkpoints.adapters.switch_adapter` gives the base's
            outputs.
        device: such as `cuda:0` or `cpu`, or a `torch.device`; default: CUDA if there is any.
        dtype: such as `bfloat16` or `torch.bfloat16`; default: float32 on CPU, the checkpoint's own elsewhere.
        load_in_4bit: quantise the language model with bitsandbytes while loading.
        position_scheme: overrides the checkpoint's, or the one assumed for a published checkpoint.
        base: for an adapter: folder or Hub id of its base model, if not where the adapter says.
        merge: fold an adapter into the weights, so that it is as fast as a whole model; it cannot be switched off
            then, and `save_pretrained` writes a whole model. Not into 4-bit weights.

    Raises:
        ModelLoadError: if there is no such folder or id, it holds no such model, or an adapter's base is missing.
    """
    checkpoint = open_checkpoint(name_or_path, position_scheme, base)
    processor = checkpoint.load_processor()
    model = checkpoint.load_model(device, dtype, load_in_4bit, merge, processor)
    return model, processor, _info(checkpoint)


def load_model(
    name_or_path: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    load_in_4bit: bool = False,
    position_scheme: str | None = None,
    base: str | os.PathLike | None = None,
    merge: bool = False,
) -> tuple[LiveCCForConditionalGeneration, LoadInfo]:
    """Load a model in evaluation mode; see :func:`load_model_and_processor`."""
    checkpoint = open_checkpoint(name_or_path, position_scheme, base)
    return checkpoint.load_model(device, dtype, load_in_4bit, merge), _info(checkpoint)


def load_processor(
    name_or_path: str | os.PathLike, base: str | os.PathLike | None = None, revision: str | None = None
) -> StreamingProcessor:
    """Load a processor, an adapter's own if it has one; see :func:`load_model_and_processor`.

    `revision` is that of the whole model on the Hub; default: its newest, or what the adapter says.
    """
    return open_checkpoint(name_or_path, base=base, revision=revision).load_processor()


def _info(checkpoint: Checkpoint) -> LoadInfo:
    return LoadInfo(checkpoint.source, checkpoint.config.position_scheme, list(checkpoint.notes))
