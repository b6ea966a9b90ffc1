"""Checks a folder without network before it is uploaded, and rewrites files for the upload."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.cards import CARD_FILE
from ..checkpoints.names import ADAPTER_CONFIG_FILE, looks_like_hub_id
from ..utils.line_ends import line_end_of
from ..utils.text import one_line
from .cards import check_card, read_card, with_base, with_license
from .contents import ADAPTER, MODEL, SPACE, Contents, read_contents
from .fresh import load_fresh
from .hub import PushError
from .weights import Tensors, read_tensors

if TYPE_CHECKING:
    from huggingface_hub import RepoCard


@dataclass(frozen=True)
class Checked:
    """A folder that passed the checks.

    Attributes:
        contents: the files to send.
        rewritten: texts of the files that are changed for the upload, by path.
        tensors: dtype and shape of each tensor, by file and name.
        loaded: facts from loading the folder without this package, see `load_fresh`; empty for a Space.
        base: Hub id of an adapter's base model.
        space_sdk: SDK of a Space.
    """

    contents: Contents
    rewritten: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Tensors] = field(default_factory=dict)
    loaded: dict[str, str] = field(default_factory=dict)
    base: str | None = None
    space_sdk: str | None = None

    def read_text(self, name: str) -> str:
        """Return the text of a file as it will be sent."""
        if name in self.rewritten:
            return self.rewritten[name]
        return (self.contents.folder / name).read_text(encoding="utf-8")

    def with_text(self, name: str, text: str) -> Checked:
        """Return a copy of this object with another text for a file."""
        return replace(self, rewritten=self.rewritten | {name: text})

    def copy_to(self, folder: Path, link: Callable[[Path, Path], None] = os.symlink) -> Contents:
        """Link the files to send into an empty folder, write the changed ones there, and return its contents."""
        for name in self.contents.files:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if name in self.rewritten:
                line_end = line_end_of(self.contents.folder / name)
                place.write_text(self.rewritten[name], encoding="utf-8", newline=line_end)
                continue
            source = (self.contents.folder / name).resolve()
            try:
                link(source, place)
            except OSError:  # no links on this file system or operating system
                shutil.copyfile(source, place)
        return read_contents(folder)


def check_folder(
    folder: str | Path, *, base_id: str | None = None, licence: str | None = None, load: bool = True
) -> Checked:
    """Check everything about a folder that can be checked without network.

    Args:
        folder: a model, adapter, Space or generation code.
        base_id: Hub id of the base model, if the folder names it by a path.
        licence: licence to write into the uploaded card.
        load: whether to load code, config and processor in a separate process.

    Returns:
        The checked folder, with the changes for the upload.

    Raises:
        PushError: for the first problem found.
    """
    contents = read_contents(folder)
    card = read_card(contents)
    rewritten: dict[str, str] = {}
    base: str | None = None
    if base_id is not None:
        _check_base_id(contents, base_id)
    if contents.kind == ADAPTER:
        old, base, config = _adapter_base(contents, base_id)
        rewritten |= {ADAPTER_CONFIG_FILE: config} if config is not None else {}
    else:
        old = None
    changed = with_license(card, licence)
    if with_base(contents, card, base_id, old) or changed:
        rewritten[CARD_FILE] = str(card)
    check_card(contents, card)
    if contents.kind == SPACE:
        return Checked(contents, rewritten, space_sdk=_check_space(contents, card))
    _check_code(contents)
    tensors = read_tensors(contents)
    loaded = load_fresh(str(contents.folder.resolve()), contents.kind) if load else {}
    return Checked(contents, rewritten, tensors, loaded, base)


def _check_base_id(contents: Contents, base_id: str) -> None:
    if contents.kind not in (MODEL, ADAPTER):
        raise PushError(f"--base-id is for models and adapters, and {contents.folder} is neither")
    check_base_id(base_id)


def check_base_id(base_id: str, option: str = "--base-id") -> None:
    """Check that a base is named by a Hub id.

    Raises:
        PushError: if it is not; the message names `option`.
    """
    if not looks_like_hub_id(base_id):
        raise PushError(f"{option} {base_id} is not a Hub id: expected one such as Qwen/Qwen2-VL-7B-Instruct")


def _adapter_base(contents: Contents, base_id: str | None) -> tuple[str | None, str, str | None]:
    """Return the base in the adapter's config, the base's Hub id, and the changed text of the config or `None`.

    Raises:
        PushError: if the config cannot be read, or names a path and `base_id` is not given.
    """
    path = contents.folder / ADAPTER_CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        old = values.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise PushError(f"{path} cannot be read: {one_line(error, 160)}") from error
    if base_id is None and not (old and looks_like_hub_id(old)):
        problem = f"names its base by a local path, {old}" if old else "does not name its base"
        raise PushError(
            f"{path} {problem}: give the base's Hub id with --base-id USER/NAME; push the base first if it is not on "
            "the Hub"
        )
    if base_id is None or base_id == old:
        return old, old, None
    values |= {"base_model_name_or_path": base_id, "revision": None}
    return old, base_id, json.dumps(values, indent=2, sort_keys=True) + "\n"


def _check_space(contents: Contents, card: RepoCard) -> str:
    """Check a Space's card and code, and return its SDK.

    Raises:
        PushError: if the Space could not start.
    """
    sdk, app_file = card.data.get("sdk"), card.data.get("app_file") or "app.py"
    if sdk not in ("gradio", "docker", "static"):
        raise PushError(f"{contents.folder / CARD_FILE} says sdk: {sdk}: expected gradio, docker or static")
    if sdk == "gradio" and app_file not in contents.files:
        raise PushError(f"{contents.folder} has no {app_file}, the file that the Space runs")
    _check_code(contents)
    return sdk


def _check_code(contents: Contents) -> None:
    """Check that the model's code is there, and that all Python files to send can be parsed.

    Raises:
        PushError: if the code is missing, or a file cannot be parsed.
    """
    if contents.kind in (MODEL, ADAPTER) and not contents.code:
        raise PushError(
            f"{contents.folder} does not contain the model's code (modeling_livecc.py and what it imports), which "
            "loading needs: save the model with livecc-hf (livecc convert, livecc merge, livecc train), or import "
            "livecc_hf before saving it"
        )
    for name in (name for name in contents.files if name.endswith(".py")):
        try:
            ast.parse((contents.folder / name).read_text(encoding="utf-8"), name)
        except (SyntaxError, ValueError) as error:
            raise PushError(f"{contents.folder / name} is not Python: {one_line(error, 160)}") from error
