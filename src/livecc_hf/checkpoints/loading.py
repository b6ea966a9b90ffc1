"""Loads a model and its processor from a folder or the Hub: a model of this package, or a published checkpoint."""

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
    """Facts about a loaded model.

    Attributes:
        source: the folder or Hub id.
        position_scheme: the position scheme that the model uses.
        notes: remarks for the user, one line each; empty for a whole model of this package.
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
        name_or_path: folder or Hub id of a model of this package, of a published checkpoint of LiveCC, Qwen2-VL,
            Qwen2.5-VL or Qwen3-VL, or of an adapter, which is attached to its base. A model with an adapter uses the
            adapter's position scheme; `livecc_hf.checkpoints.adapters.switch_adapter` switches to the base's outputs.
        device: such as `cuda:0` or `cpu`, or a `torch.device`; default: CUDA if available, else the CPU.
        dtype: such as `bfloat16` or `torch.bfloat16`; default: float32 on a CPU, the stored dtype elsewhere.
        load_in_4bit: quantise the language model with bitsandbytes while loading.
        position_scheme: overrides the checkpoint's scheme, or the scheme assumed for a published checkpoint.
        base: for an adapter, folder or Hub id of its base model; default: the base that the adapter names.
        merge: merge an adapter into the weights, which makes it as fast as a whole model. It then cannot be switched
            off, and `save_pretrained` writes a whole model. Not possible with 4-bit weights.

    Returns:
        The model in evaluation mode, its processor, and facts about what was loaded.

    Raises:
        ModelLoadError: if the folder or repository does not exist or holds no such model, the weights or the processor
            cannot be loaded, an adapter's base is missing, or the device or an option cannot be used.
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
    """Load a model in evaluation mode; see `load_model_and_processor`."""
    checkpoint = open_checkpoint(name_or_path, position_scheme, base)
    return checkpoint.load_model(device, dtype, load_in_4bit, merge), _info(checkpoint)


def load_processor(
    name_or_path: str | os.PathLike, base: str | os.PathLike | None = None, revision: str | None = None
) -> StreamingProcessor:
    """Load a model's processor, or the adapter's own if it has one.

    Args:
        name_or_path: folder or Hub id, as for `load_model_and_processor`.
        base: for an adapter, folder or Hub id of its base model; default: the base that the adapter names.
        revision: revision of the whole model on the Hub; default: the one that the adapter names, or the newest.

    Raises:
        ModelLoadError: if the folder or repository does not exist, or its files cannot be loaded.
    """
    return open_checkpoint(name_or_path, base=base, revision=revision).load_processor()


def _info(checkpoint: Checkpoint) -> LoadInfo:
    return LoadInfo(checkpoint.source, checkpoint.config.position_scheme, list(checkpoint.notes))
