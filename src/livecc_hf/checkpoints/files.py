"""Finds and reads the files of a checkpoint in a folder or Hub repository."""

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
    """Return the path of a file in a folder or Hub repository; `None` if it does not exist.

    Raises:
        ModelLoadError: if the Hub cannot be reached and the repository is not in the cache.
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
        raise ModelLoadError(hub_message(source, error)) from error  # the next file would time out as well
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):  # `read_config_dict` reports other problems
        return None


def read_json(source: str, path: str | os.PathLike) -> dict:
    """Return the JSON object in a file of a checkpoint.

    Args:
        source: the checkpoint, for error messages.
        path: the file.

    Raises:
        ModelLoadError: if the file cannot be read, or does not hold a JSON object.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{source}: {path.name} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelLoadError(f"{source}: {path.name} does not hold a JSON object")
    return values
