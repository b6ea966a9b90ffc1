"""Checks that weight files are complete, and that the files on the Hub hold the same tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.text import one_line
from .contents import Contents
from .hub import PushError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_INDEX = "model.safetensors.index.json"
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def read_tensors(contents: Contents) -> dict[str, Tensors]:
    """Return dtype and shape of each tensor, by file and name, from the files' headers.

    Raises:
        PushError: if a file is damaged or truncated, or the index does not match the files.
    """
    found = {name: _local_tensors(contents.folder / name) for name in contents.weights}
    index = contents.folder / _INDEX
    if _INDEX in contents.files:
        _check_index(index, found)
    elif len(found) > 1:
        raise PushError(
            f"{contents.folder} holds {len(found)} weight files but no {_INDEX}, which lists their tensors: write the "
            "folder again"
        )
    return found


def _local_tensors(file: Path) -> Tensors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (it is not a mapping)
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except OSError as error:
        raise PushError(f"{file} cannot be read ({one_line(error, 160)})") from error
    except SafetensorError as error:
        raise PushError(f"{file} is damaged or truncated ({one_line(error, 160)}): write the folder again") from error


def _check_index(index: Path, found: dict[str, Tensors]) -> None:
    try:
        named = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PushError(f"{index} cannot be read ({one_line(error, 160)}): write the folder again") from error
    for tensor, name in named.items():
        if name not in found:
            raise PushError(f"{index} names {name}, which is not in the folder: copy it there, or write it again")
        if tensor not in found[name]:
            raise PushError(f"{index} says that {tensor} is in {name}, which does not hold it: write the folder again")
    if stray := sorted(set(found) - set(named.values())):
        raise PushError(f"{index} does not name {stray[0]}: remove that file if it is from an earlier save")


def compare_tensors(api: HfApi, repo_id: str, revision: str, local: dict[str, Tensors]) -> int:
    """Check that the tensors at a revision on the Hub have the same names, dtypes and shapes; return their number.

    Args:
        api: the Hub's client.
        repo_id: the repository.
        revision: the revision to check.
        local: the tensors of the sent files, as `read_tensors` returns them.

    Raises:
        PushError: for the first difference.
    """
    for file, tensors in local.items():
        read = api.parse_safetensors_file_metadata(repo_id, file, revision=revision).tensors
        remote = {name: (info.dtype, tuple(info.shape)) for name, info in read.items()}
        if different := sorted(set(tensors.items()) ^ set(remote.items())):
            name = different[0][0]
            raise PushError(
                f"{file} at {repo_id}@{revision} differs from the one sent: {name} is {_describe(remote.get(name))} "
                f"there and {_describe(tensors.get(name))} here; push again"
            )
    return sum(map(len, local.values()))


def _describe(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if tensor is None else f"{tensor[0]} {list(tensor[1])}"
