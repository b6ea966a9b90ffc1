"""Names of checkpoints and their files; needs neither PyTorch nor the network."""

from __future__ import annotations

import os
from pathlib import Path

from ..assets import bundled_model_path
from .errors import ModelLoadError

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_EXPECTED = "expected a folder or a Hub id such as chenjoya/LiveCC-7B-Instruct"


def looks_like_hub_id(source: str) -> bool:
    """Return whether `source` has the form `owner/name` and is not an existing local path."""
    is_path = Path(source).exists() or source.startswith((".", "~", os.sep)) or Path(source).is_absolute()
    return not is_path and not source.endswith("/") and source.count("/") == 1


def check_model_name(source: str) -> None:
    """Check that a name is an existing folder, or has the form of a Hub id.

    Args:
        source: a folder or Hub id.

    Raises:
        ModelLoadError: if it is a file, or neither an existing folder nor a possible Hub id.
    """
    path = Path(source).expanduser()
    if path.is_file():
        raise ModelLoadError(f"{source} is a file: {_EXPECTED.replace('a folder', 'a model folder')}")
    if not path.is_dir() and (path.is_absolute() or source.startswith((".", "~")) or source.strip("/").count("/") != 1):
        bundled = bundled_model_path()
        if source == bundled.name:
            raise ModelLoadError(f"{source} is the bundled model: leave the option out, or give its folder {bundled}")
        raise ModelLoadError(f"model folder {source} does not exist: {_EXPECTED}")


def expand_home(source: str) -> str:
    """Return a name with a leading `~` expanded, since the Hub's libraries would take it for a Hub id."""
    return str(Path(source).expanduser()) if source.startswith("~") else source
