"""The base of the stages that load a model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from ...utils.text import one_line
from .base import Stage


class ModelStage(Stage):
    """A stage whose `open` loads a model, which stays in its process.

    A stage may be pickled at any time, without its model: the process that unpickles it loads the model again.
    """

    @abstractmethod
    def load(self) -> Any:
        """Load and return the model, in any form; see `open` for what it raises."""

    def open(self) -> None:
        """Load the model; a second call does nothing."""
        if "_loaded" not in self.__dict__:
            object.__setattr__(self, "_loaded", self.load())  # the dataclasses are frozen

    @property
    def loaded(self) -> Any:
        """What `load` returned."""
        self.open()
        return self.__dict__["_loaded"]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}


def load_pretrained(load: Callable[..., Any], source: str, **options: Any) -> Any:
    """Call a `from_pretrained`, with one clear error however it fails.

    Args:
        load: such as `AutoTokenizer.from_pretrained`.
        source: a local folder or a Hub id.
        options: keywords of `load`.

    Raises:
        ValueError: if there is no such model, or it cannot be loaded.
    """
    path = Path(source).expanduser()
    is_path = path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1
    if is_path and not path.is_dir():
        raise ValueError(f"model folder {source} does not exist: expected a local folder or a Hub id")
    try:
        return load(str(path) if path.is_dir() else source, **options)
    except Exception as error:  # damaged files and a missing network fail in as many ways as there are formats
        raise ValueError(
            f"model {source} cannot be loaded: {one_line(error)}; expected a local folder or a Hub id that can be "
            "reached"
        ) from error


def device_option() -> Any:
    """Return the field of a stage that is its device."""
    return field(default=None, metadata={"help": "Such as 'cuda:1' or 'cpu'; default: CUDA if there is any."})


def choose_device(device: str | None) -> str:
    """Return `device`, by default CUDA if there is any, else CPU.

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
    """Return the field of a stage that is the type of its model's numbers."""
    return field(default=None, metadata={"help": "Default: bfloat16 on CUDA, float32 elsewhere."})


def choose_dtype(dtype: str | None, device: str) -> Any:
    """Return the torch dtype of that name; default: bfloat16 on CUDA, float32 elsewhere.

    Raises:
        ValueError: if there is no such floating-point type.
    """
    import torch

    if dtype is None:
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    value = getattr(torch, dtype, None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(f"dtype {dtype!r} is unknown: expected bfloat16, float16 or float32")
    return value
