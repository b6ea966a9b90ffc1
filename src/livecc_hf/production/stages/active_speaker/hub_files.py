"""Finds a file of weights on this machine or in a Hub repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ....utils.text import one_line


def find_weights(source: str, suffixes: Sequence[str], option: str, what: str) -> Path:
    """Return the local path of a file, downloaded from the Hub if needed.

    Args:
        source: a file, a folder or Hub repository that holds one, or `repo:file`.
        suffixes: of the files to look for.
        option: name of the option that gave `source`, for errors.
        what: description of the file's content, for errors.

    Raises:
        ValueError: if there is no such file, or more than one.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in suffixes:
            raise ValueError(f"{option} is {source}: expected {what}, a file ending in {' or '.join(suffixes)}")
        return path
    if path.is_dir():
        found = sorted(item for item in path.iterdir() if item.suffix in suffixes)
        return path / _only([item.name for item in found], source, suffixes, option, what, "/")
    if path.is_absolute() or source.startswith((".", "~")) or source.partition(":")[0].count("/") != 1:
        raise ValueError(f"{option}: {source} does not exist: expected {what} as a file, a folder, REPO or REPO:FILE")
    return _from_hub(source, suffixes, option, what)


def _from_hub(source: str, suffixes: Sequence[str], option: str, what: str) -> Path:
    from huggingface_hub import hf_hub_download, list_repo_files

    repo, _, name = source.partition(":")
    try:
        if not name:
            names = sorted(item for item in list_repo_files(repo) if item.endswith(tuple(suffixes)))
            name = _only(names, source, suffixes, option, what, ":")
        return Path(hf_hub_download(repo, name))
    except ValueError:
        raise
    except Exception as error:  # no network, no such repository, no access
        raise ValueError(
            f"{option}: {source} cannot be fetched: {one_line(error)}; expected {what} as a local file, or in a Hub "
            "repository that can be reached"
        ) from error


def _only(names: list[str], source: str, suffixes: Sequence[str], option: str, what: str, joint: str) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise ValueError(f"{option}: {source} holds no file ending in {' or '.join(suffixes)}: expected {what}")
    raise ValueError(f"{option}: {source} holds {', '.join(names)}: name one of them, as {source}{joint}{names[0]}")
