"""Writes a folder of generation code with which the `generate` of stock models makes live commentary."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
from pathlib import Path

from packaging.requirements import Requirement

from ..checkpoints.cards import CARD_FILE
from ..utils.output_folder import check_new_folder, new_folder
from .code_files import modeling_folder

_TEMPLATE = Path(__file__).parent / "generation_template"
_CODE = "custom_generate"
_NEEDED = ("torch", "torchvision", "transformers", "av", "pillow", "numpy")


class GenerationRepoError(ValueError):
    """Raised if the folder cannot be written; the message is one line and says what to do."""


def write_generation_repo(out: str | os.PathLike) -> Path:
    """Write a folder that `model.generate(custom_generate=...)` and `livecc push` accept.

    The folder holds all code that it needs, so that it runs without livecc-hf.

    Args:
        out: the folder to write; it must not exist or be empty.

    Returns:
        The folder.

    Raises:
        GenerationRepoError: if `out` is a file or not empty, or livecc-hf is not installed.
    """
    out = Path(out).expanduser()
    check_new_folder(out, GenerationRepoError)
    requirements = _requirements()
    with new_folder(out, GenerationRepoError) as folder:
        code = folder / _CODE
        code.mkdir()
        shutil.copyfile(_TEMPLATE / CARD_FILE, folder / CARD_FILE)
        shutil.copyfile(_TEMPLATE / "generate.py", code / "generate.py")
        (code / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
        for path in _modules_of(_TEMPLATE / "generate.py"):
            shutil.copyfile(path, code / path.name)
    return out


def _modules_of(path: Path) -> list[Path]:
    """Return the files of the modeling code that a file imports, directly or indirectly."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        tree = ast.parse(waiting.pop().read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                needed = modeling_folder() / f"{node.module}.py"
                if needed not in found:
                    found.add(needed)
                    waiting.append(needed)
    return sorted(found)


def _requirements() -> list[str]:
    """Return the requirements of the code, with the version bounds of this package."""
    try:
        declared = [Requirement(text) for text in importlib.metadata.requires("livecc-hf") or ()]
    except importlib.metadata.PackageNotFoundError:
        raise GenerationRepoError(
            "livecc-hf is not installed, so its requirements are not known: install it (pip install .)"
        ) from None
    plain = {one.name: f"{one.name}{one.specifier}" for one in declared if one.marker is None}
    return [plain[name] for name in _NEEDED]
