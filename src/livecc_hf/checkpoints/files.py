"""The files of a checkpoint, in a folder or in a Hub repository."""

from __future__ import annotations

import json
import os
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

from .errors import ModelLoadError, hub_message
from .names import ADAPTER_CONFIG_FILE, CONFIG_FILE, looks_like_hub_id


def find_file(source: str, name: str) -> str | None:
    """Return the path of a file in a folder or Hub repository, `None` if it is not there.

    Raises:
        ModelLoadError: if the Hub cannot be reached, and nothing of the repository is in the cache.
    """
    if Path(source).is_dir():
        path = Path(source) / name
        return str(path) if path.is_file() else None
    if not looks_like_hub_id(source):
        return None
    try:
        return hf_hub_download(source, name)
    except LocalEntryNotFoundError as error:  # the Hub was not reached
        if any(isinstance(try_to_load_from_cache(source, known), str) for known in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
            return None
        raise ModelLoadError(hub_message(source, error)) from error  # rather than wait as long for the next file
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):  # what is wrong besides, `read_config_dict` says
        return None


def read_json(source: str, path: str | os.PathLike) -> dict:
    """Return what a JSON file of a checkpoint holds.

    Args:
        source: the checkpoint, as messages call it.
        path: the file.

    Raises:
        ModelLoadError: if it cannot be read, or holds no object.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{source}: {path.name} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelLoadError(f"{source}: {path.name} holds no JSON object")
    return values
