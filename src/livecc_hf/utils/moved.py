"""Old names of moved modules, which users' code may still import.

`import livecc_hf` makes each old name an alias of the new module, with a `DeprecationWarning` on import. Only modules
that README, docs, examples, templates or a recipe's `package.module:Class` have named belong here; other modules move
without an alias.
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
    """Load an existing module under a second name."""

    def __init__(self, target: str):
        self._target = target
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has set the spec of the old name


class _MovedModules(MetaPathFinder):
    """Find the modules of `MOVED` by their old names; last in `sys.meta_path`, so it never hides a real module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec for the old name of a moved module; `None` for any other name."""
        new = MOVED.get(fullname.removeprefix(f"{_PACKAGE}."))
        if new is None or not fullname.startswith(f"{_PACKAGE}."):
            return None
        new = f"{_PACKAGE}.{new}"
        warnings.warn(f"{fullname} is now {new}: change the import", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, _Alias(new))


def keep_old_names() -> None:
    """Make the old names importable; further calls do nothing."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
