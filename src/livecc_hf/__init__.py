"""Live video commentary with LiveCC, native to the Hugging Face stack.

Importing this package is cheap: names of the modeling code are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loading import load_model_and_processor
    from .modeling import (
        CommentarySegment,
        CommentaryStream,
        LiveCCConfig,
        LiveCCForConditionalGeneration,
        StreamingProcessor,
        StreamOptions,
    )

try:
    __version__ = version("livecc-hf")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

_MODELING = (
    "CommentarySegment",
    "CommentaryStream",
    "LiveCCConfig",
    "LiveCCForConditionalGeneration",
    "StreamOptions",
    "StreamingProcessor",
)

__all__ = [*_MODELING, "load_model_and_processor"]


def __getattr__(name: str):
    if name in _MODELING:
        return getattr(importlib.import_module(".modeling", __name__), name)
    if name == "load_model_and_processor":
        return importlib.import_module(".loading", __name__).load_model_and_processor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
