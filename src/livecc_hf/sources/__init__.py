"""Reads video from files, cameras, network streams and standard input. See docs/live-sources.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from livecc_hf.sources.errors import SourceError, SourceLostError, SourceOpenError, StalledError
    from livecc_hf.sources.feed import LagMeter, PlayoutClock, RealTimeFeed
    from livecc_hf.sources.reader import ReconnectOptions, StreamReader
    from livecc_hf.sources.source import Source, SourceOptions, SourceStats, open_source
    from livecc_hf.sources.spec import SourceSpec, parse_spec, redact

# Imported on first use, so that the command line's help and errors do not wait for PyTorch.
_EXPORTS = {
    **dict.fromkeys(("SourceError", "SourceLostError", "SourceOpenError", "StalledError"), "errors"),
    **dict.fromkeys(("LagMeter", "PlayoutClock", "RealTimeFeed"), "feed"),
    **dict.fromkeys(("ReconnectOptions", "StreamReader"), "reader"),
    **dict.fromkeys(("Source", "SourceOptions", "SourceStats", "open_source"), "source"),
    **dict.fromkeys(("SourceSpec", "parse_spec", "redact"), "spec"),
}

__all__ = [
    "LagMeter",
    "PlayoutClock",
    "RealTimeFeed",
    "ReconnectOptions",
    "Source",
    "SourceError",
    "SourceLostError",
    "SourceOpenError",
    "SourceOptions",
    "SourceSpec",
    "SourceStats",
    "StalledError",
    "StreamReader",
    "open_source",
    "parse_spec",
    "redact",
]


_FORMER = {"StreamOptions": "ReconnectOptions"}  # old names of version 0.1.0, still accepted


def __getattr__(name: str) -> Any:
    name = _FORMER.get(name, name)
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
