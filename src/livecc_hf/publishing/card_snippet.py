"""Fills the usage snippet of a card before the upload, with the repository and the commit of code and weights."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.cards import CARD_FILE
from .contents import GENERATE, SPACE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from .hub import Target

_REPOSITORY = {SPACE: "USER/SPACE", GENERATE: "USER/NAME"}
_OTHERWISE = "path/or/hub-id"  # in the template of models and adapters
_COMMIT = '"COMMIT"'
_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# A repository's own commit is in an assignment, a dictionary, or a call's line of its own; `revision=` within a line is
# the revision of a base model.
_PINNED = re.compile(r'(?:revision = |"revision": |^ +revision=)"([0-9a-f]{40})"', re.MULTILINE)


def fill_snippet(card: str, kind: str, repo_id: str, commit: str | None = None) -> str:
    """Return a card with the placeholders in its code blocks replaced by the repository and the commit.

    Args:
        card: text of the card.
        kind: kind of the contents, as `Contents.kind`.
        repo_id: the repository.
        commit: the commit; `None` leaves its placeholder.
    """

    def fill(block: re.Match) -> str:
        code = block[0].replace(_REPOSITORY.get(kind, _OTHERWISE), repo_id)
        return code if commit is None else code.replace(_COMMIT, f'"{commit}"')

    return _BLOCK.sub(fill, card)


def leaves_commit_open(card: str) -> bool:
    """Return whether a card's code blocks have a placeholder for the commit."""
    return any(_COMMIT in block for block in _BLOCK.findall(card))


def find_pinned(card: str) -> str | None:
    """Return the commit that a card's code blocks name; `None` if they name none."""
    commits = [commit for block in _BLOCK.findall(card) for commit in _PINNED.findall(block)]
    return commits[0] if commits else None


def find_pinned_there(api: HfApi, target: Target, revision: str | None) -> str | None:
    """Return the commit that the card in a repository names; `None` without a card or a commit in it."""
    from huggingface_hub.errors import EntryNotFoundError

    with tempfile.TemporaryDirectory(prefix="livecc-push-") as folder:
        try:
            path = api.hf_hub_download(
                target.repo_id, CARD_FILE, repo_type=target.repo_type, revision=revision, cache_dir=folder
            )
        except EntryNotFoundError:
            return None
        return find_pinned(Path(path).read_text(encoding="utf-8", errors="replace"))


def holds_the_same(api: HfApi, target: Target, revisions: tuple[str, str], files: set[str]) -> bool:
    """Return whether two revisions of a repository hold the same files, apart from the card."""
    from huggingface_hub.errors import RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    def ids(revision: str) -> dict[str, str]:
        tree = api.list_repo_tree(target.repo_id, recursive=True, revision=revision, repo_type=target.repo_type)
        return {item.path: item.blob_id for item in tree if isinstance(item, RepoFile) and item.path in files}

    files = files - {CARD_FILE}
    try:
        return ids(revisions[0]) == ids(revisions[1])
    except RevisionNotFoundError:  # the history was squashed
        return False
