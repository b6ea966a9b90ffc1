"""LiveCC's modeling code: the files that are published with a model, importable as `livecc_hf.modeling`.

Only this file and `interfaces.py` (for type checkers) are not published.

Importing this package registers the `livecc` model type with transformers' auto classes, without importing
transformers or torch itself: `livecc_hf.modeling.grammar` needs neither. The type is registered when transformers is
imported, by any module, or at once if it already is.
"""

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_livecc import POSITION_SCHEMES, LiveCCConfig
    from .context import ContextFullError
    from .modeling_livecc import LiveCCForConditionalGeneration, LiveCCModel
    from .processing_livecc import StreamingProcessor
    from .stream import CommentarySegment, CommentaryStream, StreamFinishedError
    from .stream_options import StreamOptions
    from .video_processing_livecc import LiveCCVideoProcessor

__all__ = [
    "POSITION_SCHEMES",
    "CommentarySegment",
    "CommentaryStream",
    "ContextFullError",
    "LiveCCConfig",
    "LiveCCForConditionalGeneration",
    "LiveCCModel",
    "LiveCCVideoProcessor",
    "StreamFinishedError",
    "StreamOptions",
    "StreamingProcessor",
]

_MODULES = {
    "POSITION_SCHEMES": "configuration_livecc",
    "CommentarySegment": "stream",
    "CommentaryStream": "stream",
    "ContextFullError": "context",
    "LiveCCConfig": "configuration_livecc",
    "LiveCCForConditionalGeneration": "modeling_livecc",
    "LiveCCModel": "modeling_livecc",
    "LiveCCVideoProcessor": "video_processing_livecc",
    "StreamFinishedError": "stream",
    "StreamOptions": "stream_options",
    "StreamingProcessor": "processing_livecc",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _register() -> None:
    """Register the `livecc` model type with the auto classes."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
        AutoVideoProcessor,
    )

    from .configuration_livecc import LiveCCConfig
    from .modeling_livecc import LiveCCForConditionalGeneration
    from .processing_livecc import StreamingProcessor
    from .video_processing_livecc import LiveCCVideoProcessor

    AutoConfig.register("livecc", LiveCCConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(LiveCCConfig, LiveCCForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(LiveCCConfig, StreamingProcessor, exist_ok=True)
    AutoVideoProcessor.register(LiveCCConfig, LiveCCVideoProcessor, exist_ok=True)


class _Registration(MetaPathFinder):
    """Registers the type once transformers is imported and no module of this package is partly imported."""

    def __init__(self):
        self._n_importing = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the other finders' spec of transformers or a module of this package, with its import counted."""
        if fullname != "transformers" and not fullname.startswith(f"{__name__}."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            loader.exec_module = functools.partial(self._run, loader.exec_module)
        return spec

    def _run(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        self._n_importing += 1
        try:
            exec_module(module)
        finally:
            self._n_importing -= 1
        self.try_now()

    def try_now(self) -> None:
        """Register the type, once, if possible now."""
        if self._n_importing or self not in sys.meta_path or "transformers" not in sys.modules:
            return
        sys.meta_path.remove(self)
        with contextlib.suppress(ImportError):  # a missing or old dependency is reported when a name is used
            _register()


_registration = _Registration()
sys.meta_path.insert(0, _registration)
_registration.try_now()
