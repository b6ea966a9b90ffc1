"""The base class and common options of stages that load a model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...utils.text import one_line
from .base import Stage


class ModelStage(Stage):
    """A stage that loads a model once in each process.

    Pickling leaves the model out: the process that unpickles the stage loads it again.
    """

    @abstractmethod
    def load(self) -> Any:
        """Return the loaded model, in any form; raises what `Stage.open` may raise."""

    def open(self) -> None:
        """Load the model; a second call does nothing."""
        if "_loaded" not in self.__dict__:
            object.__setattr__(self, "_loaded", self.load())  # the dataclasses are frozen

    @property
    def loaded(self) -> Any:
        """The model that `load` returned; loaded on first use."""
        self.open()
        return self.__dict__["_loaded"]

    def needs_open(self, batch: pa.Table) -> bool:
        """Return whether there is a row: the model is not loaded, or downloaded, for a unit that is empty already."""
        return len(batch) > 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}


def load_pretrained(load: Callable[..., Any], source: str, **options: Any) -> Any:
    """Return what a `from_pretrained` loads; whatever its failure, raise one clear error.

    Args:
        load: such as `AutoTokenizer.from_pretrained`.
        source: a local folder or a Hub id.
        options: keywords of `load`.

    Raises:
        ValueError: if the model does not exist or cannot be loaded.
    """
    path = Path(source).expanduser()
    is_path = path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1
    if is_path and not path.is_dir():
        raise ValueError(f"model folder {source} does not exist: expected a local folder or a Hub id")
    try:
        return load(str(path) if path.is_dir() else source, **options)
    except Exception as error:  # each file format and library raises errors of its own
        raise ValueError(
            f"model {source} cannot be loaded: {one_line(error)}; expected a local folder, or a Hub id and access to "
            "the Hub"
        ) from error


def device_option() -> Any:
    """Return the dataclass field for a stage's option `device`."""
    return field(default=None, metadata={"help": "Such as 'cuda:1' or 'cpu'; default: CUDA if available."})


def choose_device(device: str | None) -> str:
    """Return `device`; default: CUDA if available, else CPU.

    Raises:
        ValueError: if the device cannot be used.
    """
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {chosen!r} cannot be used: {one_line(error)}; expected cpu, cuda or cuda:0"
        ) from error
    return chosen


def dtype_option() -> Any:
    """Return the dataclass field for a stage's option `dtype`."""
    return field(default=None, metadata={"help": "The model's dtype; default: bfloat16 on CUDA, float32 elsewhere."})


def choose_dtype(dtype: str | None, device: str) -> Any:
    """Return the torch dtype of that name; default: bfloat16 on CUDA, float32 elsewhere.

    Raises:
        ValueError: if it is not the name of a floating-point dtype.
    """
    import torch

    if dtype is None:
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    value = getattr(torch, dtype, None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(f"dtype {dtype!r} is unknown: expected bfloat16, float16 or float32")
    return value
