"""Repositories on the Hub: finds or creates them, uploads files, and turns failures into one-line errors."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.disk import DiskFullError, is_disk_full
from ..utils.text import one_line

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

logger = logging.getLogger(__name__)

# Versions of huggingface_hub use different HTTP clients.
_TRANSPORT_ERRORS = {"httpx": "TransportError", "httpx2": "TransportError", "requests": "ConnectionError"}
_XET_NETWORK_LABELS = ("Network error: ", "Timeout: ", "Rate limited: ", "Server error: ")


class PushError(ValueError):
    """Raised if something cannot be published; the message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """The repository and revision that a push goes to.

    Attributes:
        repo_id: `USER/NAME`.
        repo_type: "model", "dataset" or "space".
        public: create a public repository, or push to an existing public one; otherwise a new one is private, and an
            existing public one is refused.
        revision: branch, created if it does not exist, or `refs/pr/N`; default: main.
        pull_request: open a pull request.
        space_sdk: SDK of a new Space, such as "gradio".
        public_option: what the user gives to set `public`, for the error message.

    Raises:
        PushError: if the name is not valid, or both a pull request and a revision are given.
    """

    repo_id: str
    repo_type: str = "model"
    public: bool = False
    revision: str | None = None
    pull_request: bool = False
    space_sdk: str | None = None
    public_option: str = "--public"

    def __post_init__(self):
        check_name(self.repo_id)
        if self.pull_request and self.revision is not None:
            raise PushError(
                f"a pull request goes to the main branch, not to {self.revision}: give --pr or --revision, not both; "
                "to add to an open pull request, give --revision refs/pr/N"
            )


def check_name(repo_id: str) -> None:
    """Check that a name is valid for a repository.

    Raises:
        PushError: if it is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    expected = "expected USER/NAME of letters, digits, '-', '_' and '.', such as me/my-livecc"
    if repo_id.count("/") != 1:
        raise PushError(f"{repo_id!r} is not a repository name: {expected}")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PushError(f"{repo_id!r} is not a repository name ({one_line(error, 160)}): {expected}") from error


def check_token(api: HfApi) -> None:
    """Check that a token for the Hub is available.

    Raises:
        PushError: if there is no token.
    """
    from huggingface_hub import get_token

    if not (api.token or get_token()):
        raise PushError(
            "there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN to a token with write access "
            f"({api.endpoint}/settings/tokens)"
        )


def prepare_repository(api: HfApi, target: Target) -> str:
    """Find or create the repository and its branch, and return the repository's URL.

    Raises:
        PushError: if the repository is public but the target is not, or a pull request's repository does not exist.
        Exception: any error of the Hub's client; see `explain_failures`.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    what = f"{target.repo_type} {target.repo_id}"
    try:
        info = api.repo_info(target.repo_id, repo_type=target.repo_type)
    except RepositoryNotFoundError as error:
        if target.pull_request:
            raise PushError(
                f"{what} does not exist, or your token cannot read it, so no pull request can be opened: push without "
                "--pr to create it"
            ) from error
        info = None
    if info is not None and not info.private and not target.public:
        raise PushError(
            f"{what} is public, and so would be the files: give {target.public_option} to confirm, or another name"
        )
    if info is not None and info.private and target.public:
        logger.warning("%s exists and stays private: its visibility can be changed in its settings on the Hub", what)
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
    """Upload files of a folder; files that the repository already has are not transferred again.

    With hf_xet, large folders take several commits.

    Args:
        api: the Hub's client.
        target: repository and revision to upload to.
        folder: the folder with the files.
        allow: patterns of the files to send.
        ignore: patterns of files not to send, even if `allow` matches them.
        delete: paths of files in the repository to delete in the first commit.
        message: first line of the commit message.
        path_in_repo: folder in the repository to upload to; default: the top level.

    Raises:
        Exception: any error of the Hub's client; see `explain_failures`.
    """
    if find_spec("hf_xet") is None:
        logger.warning("hf_xet is not installed: the upload is a single commit (pip install hf_xet)")
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
    """Turn errors of the Hub's client into one-line errors that say what to do.

    Args:
        api: the Hub's client.
        target: repository and revision of the push, for the messages.

    Raises:
        ConnectionError: if the Hub cannot be reached, or the connection breaks.
        DiskFullError: if the disk is full.
        PushError: if the Hub refuses the request.
        Exception: any other error is raised unchanged, so that a defect is not taken for a broken connection.
    """
    try:
        yield
    except (PushError, BrokenPipeError):  # a broken pipe is standard output's: the clients have errors of their own
        raise
    except Exception as error:
        explained = _explained(api, target, error)
        if explained is None:
            raise
        raise explained from error


def _explained(api: HfApi, target: Target, error: BaseException) -> Exception | None:
    """Return the one-line error to raise for an error of the Hub's client; `None` if the error is none of a client."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return PushError("HF_HUB_OFFLINE is set: unset it to push to the Hub")
    if isinstance(error, HfHubHTTPError):
        return PushError(_refusal(api, target, error))
    if isinstance(error, _client_errors({"hf_xet": "XetAuthenticationError"})):
        return PushError(
            f"the Hub's storage did not accept the upload to {target.repo_type} {target.repo_id} "
            f"({one_line(error, 200)}): run the same command again, and if it fails again, log in with `hf auth login`"
        )
    if _is_broken_connection(error):
        return _broken(api, one_line(error, 200))
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the upload of a large file without hf_xet
        explained = _explained(api, target, error.__cause__)
        if isinstance(explained, ConnectionError):
            return _broken(api, f"{one_line(error, 200)}: {one_line(error.__cause__, 200)}")
        return explained
    if isinstance(error, OSError) and is_disk_full(error):
        place = error.filename or os.environ.get("TMPDIR", "the temporary files")
        return DiskFullError(
            f"the disk of {place} is full ({error.strerror or one_line(error, 100)}): free some space, or set TMPDIR "
            "to a folder on another disk, and run the same command again to continue"
        )
    return None


def _broken(api: HfApi, why: str) -> ConnectionError:
    return ConnectionError(
        f"the Hub at {api.endpoint} cannot be reached, or the connection broke ({why}): check the network and "
        "HF_ENDPOINT, and run the same command again to continue"
    )


def _refusal(api: HfApi, target: Target, error: Exception) -> str:
    """Return a one-line message for an HTTP error of the Hub."""
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
            f"the Hub does not let you write to {what} ({said}): use your own name or that of an organisation that you "
            "can write to, and a token with write access"
        )
    if status == 404:
        return f"{what} does not exist, or your token cannot read it ({said})"
    return f"the Hub refused the request for {what} ({said})"


def _is_broken_connection(error: BaseException) -> bool:
    """Return whether an error of a client means that the connection failed."""
    if isinstance(error, _client_errors(_TRANSPORT_ERRORS)):
        return True
    if isinstance(error, ConnectionError | TimeoutError):
        return error.filename is None  # with a file name, it is the error of a network file system
    # hf_xet passes on the error of a background task as text only.
    return type(error) is RuntimeError and any(label in str(error) for label in _XET_NETWORK_LABELS)


def _client_errors(names: Mapping[str, str]) -> tuple[type[Exception], ...]:
    """Return exceptions, named by module, of the modules that are imported: only those can have raised one."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in names.items())
    return tuple(error for error in found if error is not None)
