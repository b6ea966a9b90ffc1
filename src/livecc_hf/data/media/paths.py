"""Resolves media paths of a dataset, in a local folder or a dataset repository on the Hub."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from livecc_hf.modeling.video_file import local_file

from ...utils.disk import is_disk_full
from ..unusable import UnusableSample

_HUB_PREFIX = "hf://datasets/"


def resolve_media(path: str, root: str | os.PathLike | None = None) -> Path:
    """Return the local file for a media path, downloading it from the Hub if necessary.

    Args:
        path: relative to `root`, absolute, `file://` followed by either, or `hf://datasets/USER/REPO[@REVISION]/PATH`.
        root: a folder or `hf://datasets/USER/REPO[@REVISION][/FOLDER]` that paths must stay in; `None` resolves
            relative paths in the working directory and does not restrict paths.

    Raises:
        FileNotFoundError: if the file does not exist, or cannot be downloaded.
        OSError: if the disk is full; it names the cache folder.
        ValueError: if an `hf://` path lacks a repository or a file, or the path leads out of its root.
    """
    if path.startswith("hf://"):
        return _from_hub(path)
    if root is not None and str(root).startswith("hf://"):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"media path {path} leads out of {root}: expected a path below it")
        return _from_hub(f"{str(root).rstrip('/')}/{path}")
    file = local_path(path, root)
    if not file.is_file():
        raise FileNotFoundError(f"media file {file} does not exist: check the path, and media_root")
    return file


def find_media(path: str, root: str | os.PathLike | None = None) -> Path:
    """Return the local file for a sample's media path; see `resolve_media`.

    Raises:
        UnusableSample: "missing_file", or "malformed" if the path is invalid or leads out of its root.
    """
    try:
        return resolve_media(path, root)
    except FileNotFoundError as error:
        raise UnusableSample("missing_file", str(error)) from error
    except ValueError as error:
        raise UnusableSample("malformed", str(error)) from error


def local_path(path: str, root: str | os.PathLike | None = None) -> Path:
    """Return the local path for a dataset's media path, whether or not it exists.

    Symbolic links inside the root may point out of it: the dataset's user put them there, as `videos: link` does.

    Args:
        path: as in `resolve_media`, except `hf://` paths.
        root: a folder that the path must stay in, or `None`.

    Raises:
        ValueError: if the path leads out of the root.
    """
    file = expand_user(local_file(path, root or "."))
    if root is None:
        return file
    folder = expand_user(root)
    if not _is_below(file, folder) and not (folder / file).resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"media path {path} leads out of {root}: set media_root to a folder above it to let the dataset read there"
        )
    return folder / file


def expand_user(path: str | os.PathLike) -> Path:
    """Replace `~` and `~user` at the start of a path; other names, such as "~take 1.mp4", stay as they are."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (`Path.expanduser` raises an error for unknown users)


def _is_below(file: Path, folder: Path) -> bool:
    """Return whether a path lies in a folder lexically, without resolving `..` or links."""
    if file.is_absolute():
        if not file.is_relative_to(folder.absolute()):
            return False
        file = file.relative_to(folder.absolute())
    return ".." not in file.parts


def _from_hub(url: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    parts = url.removeprefix(_HUB_PREFIX).split("/", 2)
    if not url.startswith(_HUB_PREFIX) or len(parts) < 3 or not all(parts):
        raise ValueError(f"{url}: expected {_HUB_PREFIX}USER/REPO[@REVISION]/PATH")
    name, _, revision = parts[1].partition("@")
    try:
        return Path(hf_hub_download(f"{parts[0]}/{name}", parts[2], repo_type="dataset", revision=revision or None))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"{url} cannot be fetched: {' '.join(str(error).split())[:300]}") from error
    except OSError as error:
        if is_disk_full(error) and error.filename is None:
            error.filename = constants.HF_HUB_CACHE
        raise
