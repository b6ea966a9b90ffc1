"""Device, dtype and 4-bit quantisation of a model that is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..utils.extras import MissingExtraError, require_extra
from ..utils.text import one_line
from .errors import ModelLoadError

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

_FOUR_BIT_BLOCK = 64  # weights that share a scale, in bitsandbytes' kernels for CPUs
_FIRST_WITH_BFLOAT16 = (8, 0)  # compute capability of Ampere, the first NVIDIA GPUs with bfloat16 arithmetic


def default_device() -> str:
    """Return the default device of a model: CUDA if available, else the CPU.

    Other accelerators, such as `mps` or `xpu`, are untested and must be chosen explicitly.
    """
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def untried_accelerator() -> str | None:
    """Return this machine's accelerator if it is not chosen by default, such as `mps`; else `None`."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None or found.type == "cuda" else found.type


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device after checking that it can be used.

    Raises:
        ModelLoadError: if the name is not a device, or this machine does not have it.
    """
    import torch

    target = None
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        # For an unknown name, PyTorch only lists all its backends; else, hints follow its first sentence.
        reason = "" if target is None else f" ({one_line(error).partition('. ')[0]})"
        raise ModelLoadError(
            f"device {str(device)!r} cannot be used: expected {' or '.join(_devices())} on this machine{reason}"
        ) from error
    return target


def check_placement(device: str | torch.device | None, dtype: str | torch.dtype | None) -> None:
    """Check a device and a dtype before a model is looked for; `None` is the default.

    Raises:
        ModelLoadError: if the device or the dtype cannot be used.
    """
    import torch

    target = torch.device("cpu") if device is None else checked_device(device)
    if dtype is not None:
        weights_dtype(dtype, target)


def _devices() -> list[str]:
    """Return the names of this machine's devices."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    numbers = range(torch.accelerator.device_count() if found is not None else 0)
    return ["cpu", *(f"{found.type}:{number}" for number in numbers if found is not None)]


def weights_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | str:
    """Return the dtype to load weights in; "auto" is the dtype that they are stored in.

    Args:
        dtype: such as `bfloat16` or `torch.bfloat16`; default: float32 on a CPU, the stored dtype elsewhere.
        device: the device of the weights.

    Raises:
        ModelLoadError: if `dtype` is not a floating-point type.
    """
    import torch

    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    value = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ModelLoadError(f"dtype {dtype!r} is unknown: expected float32, bfloat16 or float16")
    return value


def four_bit_config(device: torch.device, full_modules: Sequence[str] = ()) -> BitsAndBytesConfig:
    """Return the config that quantises the language model to 4-bit while it is loaded.

    Args:
        device: the device of the weights.
        full_modules: names of modules that an adapter holds in full, which stay as they are.

    Raises:
        ModelLoadError: if bitsandbytes is missing.
    """
    import torch
    from transformers import BitsAndBytesConfig

    try:
        require_extra("quantize", "4-bit loading", "bitsandbytes")
    except MissingExtraError as error:
        raise ModelLoadError(str(error)) from error
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=four_bit_compute_dtype(capability),
        llm_int8_skip_modules=["model.visual", "lm_head", *full_modules],
    )


def four_bit_compute_dtype(capability: tuple[int, int] | None) -> torch.dtype:
    """Return the dtype in which 4-bit layers compute: bfloat16, or float16 on GPUs without bfloat16 arithmetic.

    Args:
        capability: compute capability of the CUDA device; `None` for another device.
    """
    import torch

    return torch.float16 if capability is not None and capability < _FIRST_WITH_BFLOAT16 else torch.bfloat16


def check_four_bit(source: str, model: Any, device: str | torch.device) -> None:
    """Check that 4-bit layers can run on a device, which bitsandbytes checks only in the first forward pass.

    Args:
        source: the checkpoint, for the error message.
        model: the model, loaded in 4-bit.
        device: the device it will run on.

    Raises:
        ModelLoadError: if a 4-bit layer cannot run on that device.
    """
    if not str(device).startswith("cpu"):
        return
    for name, module in model.named_modules():
        # Compared by name, so that bitsandbytes need not be imported.
        if type(module).__name__ == "Linear4bit" and module.in_features % _FOUR_BIT_BLOCK:
            raise ModelLoadError(
                f"{source}: 4-bit weights on a CPU need layers whose input is a multiple of {_FOUR_BIT_BLOCK} wide, "
                f"but {name} takes {module.in_features}: use a CUDA device, or load without 4-bit"
            )
