"""Many live commentaries on one model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .overload import OverloadedError, OverloadPolicy
    from .pool import CommentaryPool, PoolFullError, PoolStoppedError
    from .stream import PooledStream, StreamEndedError

# Imported on first use, so that the server's settings can read the overload policies without PyTorch.
_EXPORTS = {
    **dict.fromkeys(("OverloadPolicy", "OverloadedError"), "overload"),
    **dict.fromkeys(("CommentaryPool", "PoolFullError", "PoolStoppedError"), "pool"),
    **dict.fromkeys(("PooledStream", "StreamEndedError"), "stream"),
}

__all__ = [
    "CommentaryPool",
    "OverloadPolicy",
    "OverloadedError",
    "PoolFullError",
    "PoolStoppedError",
    "PooledStream",
    "StreamEndedError",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
