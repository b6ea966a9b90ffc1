"""Live video commentary with LiveCC, native to the Hugging Face stack.

Importing this package is cheap: names of the modeling code are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from .utils.moved import keep_old_names

if TYPE_CHECKING:
    from .checkpoints.loading import load_model_and_processor
    from .modeling import (
        CommentarySegment,
        CommentaryStream,
        LiveCCConfig,
        LiveCCForConditionalGeneration,
        StreamingProcessor,
        StreamOptions,
    )
    from .pool import CommentaryPool
    from .questions.asking import answer

try:
    __version__ = version("livecc-hf")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

keep_old_names()

_MODULES = {
    "answer": ".questions.asking",
    "load_model_and_processor": ".checkpoints.loading",
    "CommentaryPool": ".pool",
}  # the others: .modeling

__all__ = [
    "CommentaryPool",
    "CommentarySegment",
    "CommentaryStream",
    "LiveCCConfig",
    "LiveCCForConditionalGeneration",
    "StreamOptions",
    "StreamingProcessor",
    "answer",
    "load_model_and_processor",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, ".modeling"), __name__), name)


def __dir__():
    return sorted([*globals(), *__all__])
