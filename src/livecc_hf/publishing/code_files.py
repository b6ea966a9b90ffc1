"""Finds the files with the model's code in a folder."""

from __future__ import annotations

import fnmatch
import importlib.util
from pathlib import Path

from .hub import PushError

# The modules that `auto_map` names; earlier versions of this package named all code files like this.
ENTRY_POINTS = "*_livecc.py"


def find_code_files(folder: Path) -> set[str]:
    """Return the names of the files that transformers loads as a model's code: the entry points and their imports.

    Raises:
        PushError: if one of them imports a file that does not exist.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    entry_points = [path for path in folder.glob(ENTRY_POINTS) if path.is_file()]
    names = {path.name for path in entry_points}
    for path in entry_points:
        try:
            names |= {Path(file).name for file in get_relative_import_files(path)}
        except FileNotFoundError as error:
            raise PushError(f"{folder}: {path.name} imports {error.filename}, which does not exist") from error
    return names


def modeling_folder() -> Path:
    """Return the folder of this package's modeling code.

    Raises:
        ImportError: if it is missing.
    """
    spec = importlib.util.find_spec("livecc_hf.modeling")  # does not import it, and so not torch
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("livecc_hf.modeling is missing: reinstall livecc-hf")
    return Path(spec.submodule_search_locations[0])


def may_be_stale_code(name: str) -> bool:
    """Return whether a file at the top level of a repository has the name of a code file of this package."""
    ours = {path.name for path in modeling_folder().glob("*.py")} - {"__init__.py"}
    return name in ours or ("/" not in name and fnmatch.fnmatchcase(name, ENTRY_POINTS))
