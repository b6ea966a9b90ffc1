"""Names that users' files may still hold: modules that this package's pages named once, and where they are now.

`import livecc_hf` makes them importable, each under both names as one module, with a `DeprecationWarning`. Only what
README, docs, examples, templates or the form `package.module:Class` of a recipe named belongs here; other modules move
without a trace.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "livecc_hf"
# Old name: new name, both relative to the package.
MOVED: Mapping[str, str] = {
    "adapters": "checkpoints.adapters",
    "contact_sheet": "rendering.contact_sheet",
    "loading": "checkpoints.loading",
    "modeling.video_loading_livecc": "modeling.video_loading",
    "modeling.video_reader": "video.reader",
    "modeling.video_reader_livecc": "video.reader",
    "overlay": "rendering.overlay",
    "production.in_flight": "production.watchdog",
    "production.records": "production.schemas",
    "production.stage": "production.stages.base",
    "training.data": "data.dataset",
}


class _Alias(Loader):
    """Load a module that is there under another name."""

    def __init__(self, target: str):
        self._target = target
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the old name's there


class _MovedModules(MetaPathFinder):
    """Find the modules of `MOVED` by their old names; asked last, so a module that exists is never hidden."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module by its old name, `None` if it is no such name."""
        new = MOVED.get(fullname.removeprefix(f"{_PACKAGE}."))
        if new is None or not fullname.startswith(f"{_PACKAGE}."):
            return None
        new = f"{_PACKAGE}.{new}"
        warnings.warn(f"{fullname} is now {new}: change the import", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, _Alias(new))


def keep_old_names() -> None:
    """Make the old names importable; a second call changes nothing."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
