"""Loads a model and its processor: ours, or a published Qwen2-VL / LiveCC checkpoint, by folder or Hub id."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..messages import one_line
from ..utils.extras import MissingExtraError, require_extra

if TYPE_CHECKING:
    import torch

    from ..modeling import LiveCCConfig, LiveCCForConditionalGeneration, StreamingProcessor
    from .adapters import AdapterInfo

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
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    load_in_4bit: bool = False,
    position_scheme: str | None = None,
    base: str | os.PathLike | None = None,
) -> tuple[LiveCCForConditionalGeneration, StreamingProcessor, LoadInfo]:
    """Load a model and its processor, ready to stream.

    Args:
        name_or_path: a folder or a Hub id that holds a LiveCC model of ours, a Qwen2-VL / LiveCC checkpoint
            in the published layout, or an adapter, which is put on the base it names. Such a model runs in the
            position scheme of the adapter, and `model.disable_adapters()` gives the base's outputs (see also
            `livecc_hf.checkpoints.adapters.switch_adapter`).
        device: such as `cuda:0` or `cpu`, or a `torch.device`; default: CUDA if there is any.
        dtype: such as `bfloat16` or `torch.bfloat16`; default: float32 on CPU, the checkpoint's own elsewhere.
        load_in_4bit: quantise the language model with bitsandbytes while loading.
        position_scheme: overrides the checkpoint's, or the one assumed for a published checkpoint.
        base: for an adapter: folder or Hub id of its base model, if not where the adapter says.

    Raises:
        ModelLoadError: if there is no such folder or id, it holds no such model, or an adapter's base is missing.
    """
    processor = load_processor(name_or_path, base)
    model, info = load_model(name_or_path, device, dtype, load_in_4bit, position_scheme, processor, base)
    if getattr(model, "_hf_peft_config_loaded", False):
        model._adapter_processor = processor  # saved with the adapter: it may not be its base's
    return model, processor, info


def load_model(
    name_or_path: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    load_in_4bit: bool = False,
    position_scheme: str | None = None,
    processor: StreamingProcessor | None = None,
    base: str | os.PathLike | None = None,
) -> tuple[LiveCCForConditionalGeneration, LoadInfo]:
    """Load a model in evaluation mode; see :func:`load_model_and_processor`.

    `processor` tells which token ends a message, where the config does not.
    """
    import torch

    from .adapters import attach_adapter, require_peft

    source = str(name_or_path)
    adapter, weights, revision = _locate(source, base)
    if adapter is not None:
        require_peft()  # before the minutes that loading the base takes
    config, notes = read_config(source, position_scheme, base)
    if processor is not None and config.message_end_token_id is None:
        config.message_end_token_id = processor.end_id
    device = str(device) if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    model = load_weights(weights, config, device, dtype, load_in_4bit, revision)
    if adapter is not None:
        attach_adapter(model, adapter)
    return model.eval(), LoadInfo(source, config.position_scheme, notes)


def load_weights(
    source: str,
    config: LiveCCConfig,
    device: str,
    dtype: str | torch.dtype | None = None,
    load_in_4bit: bool = False,
    revision: str | None = None,
) -> LiveCCForConditionalGeneration:
    """Load the weights of a whole model into a model with this config; see :func:`load_model_and_processor`.

    Raises:
        ModelLoadError: if they cannot be loaded, do not fit the config, or the device does not do.
    """
    from ..modeling import LiveCCForConditionalGeneration

    options = {"dtype": _torch_dtype(dtype, device), "device_map": {"": _checked_device(device)}}
    if revision is not None:
        options |= {"revision": revision}
    if load_in_4bit:
        options |= {"quantization_config": _four_bit_config()}
    try:
        model, report = LiveCCForConditionalGeneration.from_pretrained(
            _expand(source), config=config, output_loading_info=True, **options
        )
    except Exception as error:  # damaged files fail in as many ways as there are formats
        raise ModelLoadError(
            f"{source}: the weights cannot be loaded (missing or damaged?): {one_line(error)}"
        ) from error
    check_report(source, report)
    if load_in_4bit:
        check_four_bit(source, model, device)
    return model


def load_processor(
    name_or_path: str | os.PathLike, base: str | os.PathLike | None = None, revision: str | None = None
) -> StreamingProcessor:
    """Load a processor, an adapter's own if it has one; see :func:`load_model_and_processor`.

    `revision` is that of the whole model on the Hub; default: its newest, or what the adapter says.
    """
    from ..modeling import StreamingProcessor

    source = str(name_or_path)
    adapter, whole, known_revision = _locate(source, base)
    revision = revision or known_revision
    if adapter is not None and adapter.has_processor:
        revision = None
    else:
        source = whole
        _read_base_dict(adapter, source, revision)  # says what is wrong with a source that is no model at all
    options = {} if revision is None else {"revision": revision}
    try:
        return StreamingProcessor.from_pretrained(_expand(source), **options)
    except Exception as error:  # as for the weights
        raise ModelLoadError(
            f"{source}: the tokenizer or processor files cannot be loaded: {one_line(error)}; copy them from the base "
            "model"
        ) from error


def read_config(
    source: str,
    position_scheme: str | None = None,
    base: str | os.PathLike | None = None,
    revision: str | None = None,
) -> tuple[LiveCCConfig, list[str]]:
    """Read a checkpoint's config as ours; for an adapter that of its base, in the adapter's position scheme.

    Args:
        source: a folder or Hub id.
        position_scheme: overrides what the config says or the source suggests.
        base: for an adapter: where its base model is, if not where the adapter says.
        revision: that of the whole model on the Hub; default: its newest, or what the adapter says.

    Returns:
        The config, and notes on what was assumed.

    Raises:
        ModelLoadError: if there is no such source, or it holds another kind of model.
    """
    from ..modeling import LiveCCConfig

    adapter, source, known_revision = _locate(source, base)
    values = _read_base_dict(adapter, source, revision or known_revision)
    notes = []
    if adapter is not None:
        notes.append(f"{adapter.source}: adapter on base {source}")
        if adapter.position_scheme is not None:
            position_scheme = position_scheme or adapter.position_scheme
        elif position_scheme is None:
            notes.append(
                f"{adapter.source} does not say in which position scheme it was trained: assuming its base's (choose "
                "another with position_scheme / --position-scheme)"
            )
    is_published = values["model_type"] == "qwen2_vl"
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
        raise ModelLoadError(f"{source}: config.json is not valid: {one_line(error)}") from error


def _locate(source: str, base: str | os.PathLike | None) -> tuple[AdapterInfo | None, str, str | None]:
    """What `source` is: the adapter if it is one, the folder or Hub id of the whole model, and its revision."""
    from .adapters import base_of, read_adapter

    adapter = read_adapter(source)
    if adapter is not None:
        return adapter, *base_of(adapter, base)
    if base is not None:
        read_config_dict(source)  # a source that is nothing at all is the first thing to say
        raise ModelLoadError(f"{source} is a whole model and not an adapter: leave out base / --base {base}")
    return None, source, None


def _read_base_dict(adapter: AdapterInfo | None, source: str, revision: str | None) -> dict:
    try:
        return read_config_dict(source, revision)
    except ModelLoadError as error:
        if adapter is None:
            raise
        raise ModelLoadError(
            f"{adapter.source} is an adapter on {source}, which cannot be read: {error}. Give the base model's folder "
            "or Hub id with base / --base"
        ) from error


def published_scheme(source: str, config_dict: dict) -> str | None:
    """Return the scheme a published checkpoint runs in: `reference` if it names LiveCC, else `None` (unknown)."""
    names = [source]
    path = Path(source).expanduser()
    if path.is_dir():
        # A folder of the Hub's cache is called by its commit; the repository's name stands above it.
        names = [path.resolve().name] + [part for part in path.resolve().parts if part.startswith("models--")]
    names.append(str(config_dict.get("_name_or_path") or ""))
    return "reference" if any("livecc" in name.lower() for name in names) else None


def read_config_dict(source: str, revision: str | None = None) -> dict:
    """Return the `config.json` of a whole model.

    Args:
        source: a folder or Hub id.
        revision: the revision on the Hub; default: the newest.

    Raises:
        ModelLoadError: if there is no such source, or it holds another kind of model, or an adapter.
    """
    check_model_name(source)
    from ..modeling import LiveCCConfig
    from .adapters import read_adapter

    path = Path(source).expanduser()
    if read_adapter(source) is not None:
        raise ModelLoadError(
            f"{source} is an adapter, not a whole model: `livecc merge {source} OUT` writes one from it and its base"
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelLoadError(f"{source} holds no config.json: expected a folder written by save_pretrained")
    try:
        values, _ = LiveCCConfig.get_config_dict(_expand(source), revision=revision)
    except Exception as error:
        if path.is_dir():
            raise ModelLoadError(f"{source}: config.json cannot be read: {one_line(error)}") from error
        raise ModelLoadError(hub_message(source, error)) from error
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if model_type not in READABLE_TYPES:
        raise ModelLoadError(f"{source} holds a model of type {model_type!r}: expected {' or '.join(READABLE_TYPES)}")
    return values


def check_model_name(source: str) -> None:
    """Check that a model may have this name, at no cost: neither PyTorch is imported nor the Hub asked.

    Args:
        source: a folder or Hub id.

    Raises:
        ModelLoadError: if it is a file, or a folder that does not exist, and cannot be a Hub id.
    """
    path = Path(source).expanduser()
    if path.is_file():
        raise ModelLoadError(
            f"{source} is a file: expected a model folder or a Hub id such as chenjoya/LiveCC-7B-Instruct"
        )
    if not path.is_dir() and (path.is_absolute() or source.startswith((".", "~")) or source.strip("/").count("/") != 1):
        raise ModelLoadError(
            f"model folder {source} does not exist: expected a folder or a Hub id such as chenjoya/LiveCC-7B-Instruct"
        )


def hub_message(source: str, error: Exception) -> str:
    """Return what is said where a model is neither here nor to be had from the Hub."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            f"{source} is no local folder and not in the local cache, and HF_HUB_OFFLINE is set: unset it to download "
            "the model, or give a folder"
        )
    return f"{source} cannot be fetched from the Hub: {one_line(error)}"


def check_report(
    source: str,
    report: dict,
    what: str = "weights",
    meaning: str = "the folder does not hold the model its config.json describes",
) -> None:
    """Raise `ModelLoadError` if transformers' loading report lists `what` that is missing, unexpected or mismatched."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in report.get(kind) or ())
        if keys:
            raise ModelLoadError(f"{source}: {len(keys)} {what} are {kind.split('_')[0]}, such as {keys[0]}: {meaning}")


def _torch_dtype(dtype: str | torch.dtype | None, device: str):
    import torch

    if dtype is None:
        return torch.float32 if device.startswith("cpu") else "auto"
    value = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ModelLoadError(f"dtype {dtype!r} is unknown: expected float32, bfloat16 or float16")
    return value


def _checked_device(device: str):
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device {device!r} cannot be used: {one_line(error)}") from error
    return torch.device(device)


def _four_bit_config():
    import torch
    from transformers import BitsAndBytesConfig

    try:
        require_extra("quantize", "4-bit loading", "bitsandbytes")
    except MissingExtraError as error:
        raise ModelLoadError(str(error)) from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )


def check_four_bit(source: str, model, device: str) -> None:
    """Refuse now what bitsandbytes would refuse in the first forward.

    Args:
        source: what the message calls the model.
        model: the model, loaded in 4-bit.
        device: where it will run.

    Raises:
        ModelLoadError: if a 4-bit layer cannot run on that device.
    """
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
