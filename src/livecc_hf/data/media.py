"""Finds media files: under a local folder, or in a dataset repository on the Hub."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_HUB_PREFIX = "hf://datasets/"


def resolve_media(path: str, root: str | os.PathLike | None = None) -> Path:
    """Return a local file for a path as a dataset names it; files on the Hub are fetched once and cached.

    Args:
        path: relative to `root`, absolute, or `hf://datasets/USER/REPO[@REVISION]/PATH`.
        root: a folder, or `hf://datasets/USER/REPO[@REVISION][/FOLDER]`; `None`: the working folder.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an `hf://` path names no repository and file, or a relative path leads out of its root.
    """
    if path.startswith("hf://"):
        return _from_hub(path)
    if root is not None and str(root).startswith("hf://"):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"media path {path} leads out of {root}: expected a path below it")
        return _from_hub(f"{str(root).rstrip('/')}/{path}")
    file = Path(path).expanduser()
    if root is not None and not file.is_absolute():
        file = Path(root).expanduser() / file
    if not file.is_file():
        raise FileNotFoundError(f"media file {file} does not exist: check the path, and media_root")
    return file


def _from_hub(url: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    parts = url.removeprefix(_HUB_PREFIX).split("/", 2)
    if not url.startswith(_HUB_PREFIX) or len(parts) < 3 or not all(parts):
        raise ValueError(f"{url}: expected {_HUB_PREFIX}USER/REPO[@REVISION]/PATH")
    name, _, revision = parts[1].partition("@")
    try:
        return Path(hf_hub_download(f"{parts[0]}/{name}", parts[2], repo_type="dataset", revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"{url} cannot be fetched: {' '.join(str(error).split())[:300]}") from error
