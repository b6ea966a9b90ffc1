"""Finds the files of a folder that are its model's code."""

from __future__ import annotations

import fnmatch
import importlib.util
from pathlib import Path

from .hub import PushError

# The modules that an `auto_map` names; earlier versions ended the names of all their files so.
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
            raise PushError(f"{folder}: {path.name} needs {error.filename}, which is not there") from error
    return names


def modeling_folder() -> Path:
    """Return the folder of this package's modeling code."""
    spec = importlib.util.find_spec("livecc_hf.modeling")  # not imported: it would bring torch along
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("livecc_hf.modeling is missing: install the package again")
    return Path(spec.submodule_search_locations[0])


def may_be_stale_code(name: str) -> bool:
    """Return whether a file at the top of a repository has a name that this project gives to a model's code."""
    ours = {path.name for path in modeling_folder().glob("*.py")} - {"__init__.py"}
    return name in ours or ("/" not in name and fnmatch.fnmatchcase(name, ENTRY_POINTS))
