"""Loads a model and its processor: ours, or a published Qwen2-VL / LiveCC checkpoint, by folder or Hub id."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .modeling import LiveCCConfig, LiveCCForConditionalGeneration, StreamingProcessor

READABLE_TYPES = ("livecc", "qwen2_vl")


class ModelLoadError(ValueError):
    """A model could not be loaded; the message is one line and says what to do."""


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
    device: str | None = None,
    dtype: str | None = None,
    load_in_4bit: bool = False,
    position_scheme: str | None = None,
) -> tuple[LiveCCForConditionalGeneration, StreamingProcessor, LoadInfo]:
    """Load a model and its processor, ready to stream.

    Args:
        name_or_path: a folder or a Hub id that holds a LiveCC model of ours, or a Qwen2-VL / LiveCC checkpoint
            in the published layout.
        device: such as `cuda:0` or `cpu`; default: CUDA if there is any.
        dtype: such as `bfloat16`; default: float32 on CPU, the checkpoint's own elsewhere.
        load_in_4bit: quantise the language model with bitsandbytes while loading.
        position_scheme: overrides the checkpoint's, or the one assumed for a published checkpoint.

    Raises:
        ModelLoadError: if there is no such folder or id, or it holds no such model.
    """
    processor = load_processor(name_or_path)
    model, info = load_model(name_or_path, device, dtype, load_in_4bit, position_scheme, processor)
    return model, processor, info


def load_model(
    name_or_path: str | os.PathLike,
    device: str | None = None,
    dtype: str | None = None,
    load_in_4bit: bool = False,
    position_scheme: str | None = None,
    processor: StreamingProcessor | None = None,
) -> tuple[LiveCCForConditionalGeneration, LoadInfo]:
    """Load a model in evaluation mode; see :func:`load_model_and_processor`.

    `processor` tells which token ends a message, where the config does not.
    """
    import torch

    from .modeling import LiveCCForConditionalGeneration

    source = str(name_or_path)
    config, notes = read_config(source, position_scheme)
    if processor is not None and config.message_end_token_id is None:
        config.message_end_token_id = processor.end_id
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = {"dtype": _torch_dtype(dtype, device), "device_map": {"": _checked_device(device)}}
    if load_in_4bit:
        options |= {"quantization_config": _four_bit_config()}
    try:
        model, report = LiveCCForConditionalGeneration.from_pretrained(
            _expand(source), config=config, output_loading_info=True, **options
        )
    except Exception as error:  # damaged files fail in as many ways as there are formats
        raise ModelLoadError(
            f"{source}: the weights cannot be loaded (missing or damaged?): {_one_line(error)}"
        ) from error
    _check_report(source, report)
    if load_in_4bit:
        _check_four_bit(source, model, device)
    return model.eval(), LoadInfo(source, config.position_scheme, notes)


def load_processor(name_or_path: str | os.PathLike) -> StreamingProcessor:
    """Load a processor; see :func:`load_model_and_processor`."""
    from .modeling import StreamingProcessor

    source = str(name_or_path)
    read_config_dict(source)  # says what is wrong with a source that is no model at all
    try:
        return StreamingProcessor.from_pretrained(_expand(source))
    except Exception as error:  # as for the weights
        raise ModelLoadError(
            f"{source}: the tokenizer or processor files cannot be loaded: {_one_line(error)}; copy them from the base "
            "model"
        ) from error


def read_config(source: str, position_scheme: str | None = None) -> tuple[LiveCCConfig, list[str]]:
    """Read a checkpoint's config as ours.

    Args:
        source: a folder or Hub id.
        position_scheme: overrides what the config says or the source suggests.

    Returns:
        The config, and notes on what was assumed.

    Raises:
        ModelLoadError: if there is no such source, or it holds another kind of model.
    """
    from .modeling import LiveCCConfig

    values = read_config_dict(source)
    is_published = values["model_type"] == "qwen2_vl"
    notes = []
    if is_published:
        values = {k: v for k, v in values.items() if k not in ("model_type", "architectures", "auto_map")}
        assumed = published_scheme(source, values)
        if position_scheme is None:
            notes.append(
                f"{source} is a published {'LiveCC' if assumed else 'Qwen2-VL'} checkpoint: assuming position scheme "
                f"'{assumed or 'mrope'}' (choose another with position_scheme / --position-scheme)"
            )
        values["position_scheme"] = assumed or "mrope"
    if position_scheme is not None:
        values["position_scheme"] = position_scheme
    try:
        return LiveCCConfig.from_dict(values), notes
    except Exception as error:  # transformers validates configs with several error types
        raise ModelLoadError(f"{source}: config.json is not valid: {_one_line(error)}") from error


def published_scheme(source: str, config_dict: dict) -> str | None:
    """Return the scheme a published checkpoint runs in: `reference` if it names LiveCC, else `None` (unknown)."""
    names = [source]
    path = Path(source).expanduser()
    if path.is_dir():
        # A folder of the Hub's cache is called by its commit; the repository's name stands above it.
        names = [path.resolve().name] + [part for part in path.resolve().parts if part.startswith("models--")]
    names.append(str(config_dict.get("_name_or_path") or ""))
    return "reference" if any("livecc" in name.lower() for name in names) else None


def read_config_dict(source: str) -> dict:
    """Return a checkpoint's `config.json`.

    Raises:
        ModelLoadError: if there is no such source, or it holds another kind of model.
    """
    from .modeling import LiveCCConfig

    path = Path(source).expanduser()
    if path.is_file():
        raise ModelLoadError(
            f"{source} is a file: expected a model folder or a Hub id such as chenjoya/LiveCC-7B-Instruct"
        )
    if not path.is_dir() and (path.is_absolute() or source.startswith((".", "~")) or source.strip("/").count("/") != 1):
        raise ModelLoadError(
            f"model folder {source} does not exist: expected a folder or a Hub id such as chenjoya/LiveCC-7B-Instruct"
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelLoadError(f"{source} holds no config.json: expected a folder written by save_pretrained")
    try:
        values, _ = LiveCCConfig.get_config_dict(_expand(source))
    except Exception as error:
        if path.is_dir():
            raise ModelLoadError(f"{source}: config.json cannot be read: {_one_line(error)}") from error
        raise ModelLoadError(_hub_message(source, error)) from error
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if model_type not in READABLE_TYPES:
        raise ModelLoadError(f"{source} holds a model of type {model_type!r}: expected {' or '.join(READABLE_TYPES)}")
    return values


def _hub_message(source: str, error: Exception) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            f"{source} is no local folder and not in the local cache, and HF_HUB_OFFLINE is set: unset it to download "
            "the model, or give a folder"
        )
    return f"{source} cannot be fetched from the Hub: {_one_line(error)}"


def _check_report(source: str, report: dict) -> None:
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in report.get(kind) or ())
        if keys:
            raise ModelLoadError(
                f"{source}: {len(keys)} weights are {kind.split('_')[0]}, such as {keys[0]}: the folder does not hold "
                "the model its config.json describes"
            )


def _torch_dtype(dtype: str | None, device: str):
    import torch

    if dtype is None:
        return torch.float32 if device.startswith("cpu") else "auto"
    value = getattr(torch, dtype, None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ModelLoadError(f"dtype {dtype!r} is unknown: expected float32, bfloat16 or float16")
    return value


def _checked_device(device: str):
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device {device!r} cannot be used: {_one_line(error)}") from error
    return torch.device(device)


def _four_bit_config():
    import torch
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelLoadError("4-bit loading needs bitsandbytes: pip install 'livecc-hf[quantize]'") from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )


def _check_four_bit(source: str, model, device: str) -> None:
    """Refuse now what bitsandbytes would refuse in the first forward."""
    from bitsandbytes.nn import Linear4bit

    block = 64
    for name, module in model.named_modules():
        if device.startswith("cpu") and isinstance(module, Linear4bit) and module.in_features % block:
            raise ModelLoadError(
                f"{source}: 4-bit weights on a CPU need layers whose input is a multiple of {block} wide, but {name} "
                f"takes {module.in_features}: use a CUDA device, or load without 4-bit"
            )


def _expand(source: str) -> str:
    return str(Path(source).expanduser()) if source.startswith("~") else source


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
