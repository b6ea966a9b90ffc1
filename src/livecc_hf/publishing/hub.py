"""The Hub's side of a push: finds or creates the repository, uploads files, and explains failures in one sentence."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.disk import DiskFullError, is_disk_full
from ..utils.text import one_line

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

logger = logging.getLogger(__name__)


class PushError(ValueError):
    """Something cannot be published as it is; the message says why, and what to do."""


@dataclass(frozen=True)
class Target:
    """Where a push goes.

    Attributes:
        repo_id: `USER/NAME`.
        repo_type: "model", "dataset" or "space".
        public: create a public repository, and accept one that is public; else create a private one.
        revision: branch, created if it does not exist, or `refs/pr/N`; default: main.
        pull_request: open a pull request with the push.
        space_sdk: of a new Space, such as "gradio".

    Raises:
        PushError: if the name is not valid, or a pull request has a revision.
    """

    repo_id: str
    repo_type: str = "model"
    public: bool = False
    revision: str | None = None
    pull_request: bool = False
    space_sdk: str | None = None

    def __post_init__(self):
        check_name(self.repo_id)
        if self.pull_request and self.revision is not None:
            raise PushError(
                f"a pull request goes to the main branch, not to {self.revision}: give --pr or --revision; to add "
                "to a pull request give --revision refs/pr/N alone"
            )


def check_name(repo_id: str) -> None:
    """Check that a name is valid for a repository.

    Raises:
        PushError: if not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    expected = "expected USER/NAME of letters, digits, '-', '_' and '.', such as me/my-livecc"
    if repo_id.count("/") != 1:
        raise PushError(f"{repo_id!r} is not the name of a repository: {expected}")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(f"{repo_id!r} is not the name of a repository ({one_line(error, 160)}): {expected}") from error


def check_token(api: HfApi) -> None:
    """Check that there is a token to write with.

    Raises:
        PushError: if there is none.
    """
    from huggingface_hub import get_token

    if not (api.token or get_token()):
        raise PushError(
            "there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN to a token with write access "
            f"({api.endpoint}/settings/tokens)"
        )


def prepare_repository(api: HfApi, target: Target) -> str:
    """Find or create the repository and its branch; return its address.

    Raises:
        PushError: if it is public but the target is not, or does not exist for a pull request.
        Exception: what the Hub's client raises; see `explain_failures`.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    what = f"{target.repo_type} {target.repo_id}"
    try:
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
    except RepositoryNotFoundError as error:
        if target.pull_request:
            raise PushError(
                f"{what} does not exist, or your token may not see it, so it takes no pull request: without --pr it is "
                "made"
            ) from error
        info = None
    if info is not None and not info.private and not target.public:
        raise PushError(
            f"{what} exists and is public, and so would be what is pushed: give --public if that is meant, or push to "
            "another name"
        )
    if info is not None and info.private and target.public:
        logger.warning("%s exists and stays private: make it public in its settings on the Hub", what)
    repo = api.create_repo(
        target.repo_id,
        repo_type=target.repo_type,
        private=not target.public,
        exist_ok=True,
        space_sdk=target.space_sdk if target.repo_type == "space" else None,
    )
    if target.revision is not None and not target.revision.startswith("refs/"):
        api.create_branch(target.repo_id, branch=target.revision, repo_type=target.repo_type, exist_ok=True)
    return str(repo)


def upload(
    api: HfApi,
    target: Target,
    folder: str | os.PathLike,
    allow: Sequence[str],
    *,
    ignore: Sequence[str] = (),
    delete: Sequence[str] = (),
    message: str,
    path_in_repo: str | None = None,
) -> CommitInfo:
    """Upload files of a folder, without those that the repository has already.

    Args:
        api: the Hub's client.
        target: of the push.
        folder: that holds the files.
        allow: patterns of the files to send.
        ignore: patterns of exceptions among these.
        delete: paths in the repository to delete with the first commit.
        message: the commit's first line.
        path_in_repo: folder in the repository.
    """
    if find_spec("hf_xet") is None:
        logger.warning("hf_xet is not installed: the upload is one commit (pip install hf_xet)")
    return api.upload_folder(
        repo_id=target.repo_id,
        repo_type=target.repo_type,
        folder_path=Path(folder),
        path_in_repo=path_in_repo,
        revision=target.revision,
        create_pr=target.pull_request,
        commit_message=message,
        allow_patterns=list(allow),
        ignore_patterns=list(ignore),
        delete_patterns=[glob.escape(path) for path in delete] or None,
    )


@contextlib.contextmanager
def explain_failures(api: HfApi, target: Target) -> Iterator[None]:
    """Turn errors of the Hub's client into one sentence with the way out.

    Raises:
        ConnectionError: if the Hub cannot be reached, or the connection breaks.
        DiskFullError: if the disk is full.
        PushError: if the Hub refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except PushError:
        raise
    except OfflineModeIsEnabled as error:
        raise PushError("HF_HUB_OFFLINE is set: unset it to push to the Hub") from error
    except HfHubHTTPError as error:
        raise PushError(_refusal(api, target, error)) from error
    except _broken_connections() as error:
        why = one_line(error, 200)
        if isinstance(error, RuntimeError):  # as uploads of large files raise it
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError):
                raise PushError(_refusal(api, target, cause)) from error
            why += f": {one_line(cause, 200)}" if cause is not None else ""
        raise ConnectionError(
            f"the Hub at {api.endpoint} cannot be reached or broke off ({why}): check the network, or HF_ENDPOINT, "
            "and run the same command again; it continues"
        ) from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        place = error.filename or os.environ.get("TMPDIR", "the temporary files")
        raise DiskFullError(
            f"the disk of {place} is full ({error.strerror or one_line(error, 100)}): free some space, or set TMPDIR "
            "to a folder on another disk, and run the same command again; it continues"
        ) from error


def _refusal(api: HfApi, target: Target, error: Exception) -> str:
    """Return the explanation of an error answer."""
    from huggingface_hub.errors import RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None) or one_line(error, 300)
    what = f"{target.repo_type} {target.repo_id}"
    if isinstance(error, RevisionNotFoundError):
        return f"{what} has no revision {target.revision}: give a branch, or refs/pr/N of an open pull request"
    if status == 401:
        return f"the Hub at {api.endpoint} does not accept your token ({said}): log in again with `hf auth login`"
    if status == 403:
        return (
            f"the Hub does not let you write to {what} ({said}): is it your name, or an organisation's that you may "
            "write to, and has the token write access?"
        )
    if status == 404:
        return f"{what} does not exist, or your token may not see it ({said})"
    return f"the Hub refuses {what} ({said})"


def _broken_connections() -> tuple[type[Exception], ...]:
    """Return the errors of a connection without an answer; versions of huggingface_hub use different clients."""
    names = {"httpx": "TransportError", "httpx2": "TransportError", "requests": "ConnectionError"}
    found = (getattr(sys.modules.get(module), name, None) for module, name in names.items())
    return (ConnectionError, TimeoutError, RuntimeError, *(error for error in found if error is not None))
