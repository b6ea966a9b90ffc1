"""`livecc push`: checks a folder, uploads it, and verifies the upload."""

from __future__ import annotations

import fnmatch
import glob
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.cards import CARD_FILE
from ..utils.line_ends import line_end_of
from .card_snippet import fill_snippet, find_pinned_there, holds_the_same, leaves_commit_open
from .checks import Checked, check_folder
from .code_files import may_be_stale_code
from .contents import ADAPTER, MODEL, SPACE, STALE, read_contents
from .fresh import load_fresh
from .hub import PushError, Target, check_token, explain_failures, prepare_repository, upload
from .weights import compare_tensors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

VERIFY = ("none", "parts", "full")
_WHAT = {MODEL: "a model", ADAPTER: "an adapter"}


@dataclass(frozen=True)
class PushOptions:
    """Options of a push.

    Attributes:
        public: create a public repository, or push to an existing public one; otherwise a new one is private, and an
            existing public one is refused.
        revision: branch, created if it does not exist, or `refs/pr/N`; default: main.
        pull_request: open a pull request.
        base_id: Hub id of the base model, if the folder names it by a path.
        license: licence to write into the uploaded card.
        message: first line of the commit message.
        verify: how to verify the upload: "parts" (config, code, processor, names and shapes of the tensors), "full"
            (also load the weights and generate a turn) or "none".

    Raises:
        PushError: if `verify` is unknown.
    """

    public: bool = False
    revision: str | None = None
    pull_request: bool = False
    base_id: str | None = None
    license: str | None = None
    message: str | None = None
    verify: str = "parts"

    def __post_init__(self):
        if self.verify not in VERIFY:
            raise PushError(f"verify is {self.verify!r}: expected one of {', '.join(VERIFY)}")


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Attributes:
        url: the repository's URL.
        commit: the newest commit, with the pushed files. The snippet in its card names the commit before it, since a
            commit cannot contain its own hash.
        pull_request: URL of the opened pull request; `None` if none was opened.
        changed: whether anything was sent.
        loaded: facts from loading the commit in a separate process, see `load_fresh`; empty if not verified.
    """

    url: str
    commit: str
    pull_request: str | None
    changed: bool
    loaded: dict[str, str]


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    options: PushOptions | None = None,
    *,
    token: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Pushed:
    """Check a folder, upload it to the Hub and verify the upload; a second call continues an interrupted upload.

    Args:
        folder: a model, adapter, Space or generation code, as this package writes them.
        repo_id: `USER/NAME`; created if it does not exist, and private by default.
        options: options of the push.
        token: token for the Hub; default: `HF_TOKEN`, or the token saved by `hf auth login`.
        report: called with lines that report progress.

    Raises:
        PushError: if the folder cannot be published, the Hub refuses it, or the upload differs from the folder.
        ConnectionError: if the Hub cannot be reached, or the connection breaks.
        DiskFullError: if there is no space for temporary files.
    """
    options = options or PushOptions()
    require_token(token)
    plan, target = plan_push(folder, repo_id, options)
    for line in describe_plan(plan, target):
        report(line)
    return send(plan, target, options, token=token, report=report)


def require_token(token: str | None = None) -> None:
    """Check that there is a token for the Hub, before a folder is checked, which can take a minute.

    Raises:
        PushError: if there is none.
    """
    from huggingface_hub import HfApi

    check_token(HfApi(token=token))


def plan_push(folder: str | os.PathLike, repo_id: str, options: PushOptions) -> tuple[Checked, Target]:
    """Check a folder without network, and return it with the target of the push.

    Raises:
        PushError: if the folder cannot be published, or the target is not valid.
    """
    # Made before the folder is checked, to fail early on an invalid name.
    target = Target(repo_id, "model", options.public, options.revision, options.pull_request)
    plan = check_folder(Path(folder), base_id=options.base_id, licence=options.license)
    return plan, replace(target, repo_type=plan.contents.repo_type, space_sdk=plan.space_sdk)


def describe_plan(plan: Checked, target: Target) -> list[str]:
    """Return lines that describe the target, the files to send, and the files left out."""
    contents = plan.contents
    place = "a pull request" if target.pull_request else target.revision or "main"
    lines = [f"{contents.folder} ({contents.kind}) -> {target.repo_type} {target.repo_id}, {place}"]
    code = [size for name, size in contents.files.items() if name in contents.code]
    others = {name: size for name, size in contents.files.items() if name not in contents.code}
    folders: dict[str, list[int]] = {}
    for name, size in others.items():
        folder, slash, _ = name.partition("/")
        folders.setdefault(folder + slash if contents.kind == SPACE else name, []).append(size)
    for name, sizes in sorted(folders.items(), key=lambda item: -sum(item[1])):
        what = f", {len(sizes)} files" if len(sizes) > 1 else "  (rewritten)" if name in plan.rewritten else ""
        lines.append(f"  {_size(sum(sizes)):>9}  {name}{what}")
    if code:
        lines.append(f"  {_size(sum(code)):>9}  the model's code, {len(code)} files *.py")
    lines.append(f"  {_size(contents.n_bytes):>9}  in {len(contents.files)} files")
    lines += _left_out_lines(contents.left_out)
    if plan.base:
        lines.append(f"base: {plan.base}")
    lines.append(f"a new repository would be {'public' if target.public else 'private'}")
    return lines


def _left_out_lines(left_out: dict[str, str]) -> list[str]:
    """Return lines on the files that are not sent, one per folder and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, why in left_out.items():
        folder, slash, _ = name.partition("/")
        groups.setdefault((folder + slash, why), []).append(name)
    return [
        f"not sent: {names[0]} ({why})" if len(names) == 1 else f"not sent: {len(names)} files of {place} ({why})"
        for (place, why), names in groups.items()
    ]


def send(
    plan: Checked,
    target: Target,
    options: PushOptions,
    *,
    token: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Pushed:
    """Upload a checked folder, and verify the upload.

    Args:
        plan: the checked folder.
        target: where to push it.
        options: options of the push.
        token: token for the Hub; default: `HF_TOKEN`, or the token saved by `hf auth login`.
        report: called with lines that report progress.

    Raises:
        PushError: if the Hub refuses the folder, or the upload differs from it.
        ConnectionError: if the Hub cannot be reached, or the connection breaks.
        DiskFullError: if there is no space for temporary files.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with ExitStack() as stack:
        stack.enter_context(explain_failures(api, target))
        check_token(api)
        _check_base(api, plan)
        url = prepare_repository(api, target)
        stale, before = _remote_state(api, plan, target)
        for path in stale:
            report(f"deleted in the repository: {path} (from an earlier push)")
        copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="livecc-push-")))
        message = options.message or f"Upload {plan.contents.kind}"
        commit, pull_request = _upload(api, plan, target, copy, (stale, before), message, report)
        loaded: dict[str, str] = {}
        if options.verify != "none":
            where, files = pull_request.revision if pull_request else commit, read_contents(copy).files
            loaded = _verify(api, plan, files, target, where, options.verify == "full", report)
        address = None if pull_request is None else pull_request.url
        return Pushed(url, commit, address, commit != before, loaded)


@dataclass(frozen=True)
class _PullRequest:
    url: str
    revision: str


def _upload(
    api: HfApi,
    plan: Checked,
    target: Target,
    copy: Path,
    remote_state: tuple[list[str], str | None],
    message: str,
    report: Callable[[str], None],
) -> tuple[str, _PullRequest | None]:
    """Upload a folder's files, and then its card again with the commit of those files.

    Args:
        api: the Hub's client.
        plan: the checked folder.
        target: where to push it.
        copy: an empty folder; holds the sent files afterwards.
        remote_state: paths to delete in the repository, and its current commit.
        message: first line of the commit message.
        report: called with lines that report progress.

    Returns:
        The newest commit, and the opened pull request or `None`.
    """
    stale, before = remote_state
    kind, card = plan.contents.kind, plan.read_text(CARD_FILE)
    names_commit = leaves_commit_open(card)
    pinned = find_pinned_there(api, target, before) if names_commit else None
    contents = plan.with_text(CARD_FILE, fill_snippet(card, kind, target.repo_id, pinned)).copy_to(copy)
    sent = upload(api, target, copy, [glob.escape(name) for name in contents.files], delete=stale, message=message)
    commit, pull_request = sent.oid, None
    if sent.pr_revision and sent.pr_url:
        pull_request = _PullRequest(sent.pr_url, sent.pr_revision)
        target = replace(target, revision=sent.pr_revision, pull_request=False)
    report("nothing has changed: nothing was sent" if commit == before else f"sent: commit {commit}")
    if names_commit and not (pinned and holds_the_same(api, target, (pinned, commit), set(contents.files))):
        path, text = copy / CARD_FILE, fill_snippet(card, kind, target.repo_id, commit)
        path.write_text(text, encoding="utf-8", newline=line_end_of(path))
        report(f"the card's snippet names commit {commit}")
        commit = upload(api, target, copy, [CARD_FILE], message="Name the commit in the card's snippet").oid
    return commit, pull_request


def _check_base(api: HfApi, plan: Checked) -> None:
    """Check that an adapter's base model is on the Hub.

    Raises:
        PushError: if it is not.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    if plan.base is None:
        return
    try:
        api.model_info(plan.base)
    except RepositoryNotFoundError as error:
        raise PushError(
            f"the adapter's base {plan.base} is not on the Hub, or your token cannot read it: push the base first, or "
            "give the right base with --base-id"
        ) from error


def _remote_state(api: HfApi, plan: Checked, target: Target) -> tuple[list[str], str | None]:
    """Return the files of an earlier push to delete, and the current commit.

    Raises:
        PushError: if the repository holds contents of another kind.
    """
    info = api.repo_info(target.repo_id, repo_type=target.repo_type, revision=target.revision)
    there = api.list_repo_files(target.repo_id, repo_type=target.repo_type, revision=target.revision)
    kind = plan.contents.kind
    holds = {MODEL: "model.safetensors" in there or "model.safetensors.index.json" in there}
    holds |= {ADAPTER: "adapter_config.json" in there}
    for other, is_there in holds.items():
        if is_there and kind not in (other, SPACE):
            raise PushError(
                f"{target.repo_id} holds {_WHAT[other]}, which would be loaded together with {_WHAT.get(kind, kind)}: "
                "push to another name"
            )
    patterns = STALE.get(kind, ())
    stale = [
        path
        for path in there
        if path not in plan.contents.files
        and (
            (kind in (MODEL, ADAPTER) and may_be_stale_code(path))
            or any(fnmatch.fnmatchcase(path, p) and path.count("/") == p.count("/") for p in patterns)
        )
    ]
    return stale, info.sha


def _verify(
    api: HfApi,
    plan: Checked,
    files: dict[str, int],
    target: Target,
    revision: str,
    full: bool,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Check that the upload has all files and loads without this package; return facts from loading it.

    Raises:
        PushError: if the upload differs from the files that were sent, or does not load.
    """
    from huggingface_hub import get_token
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(target.repo_id, recursive=True, revision=revision, repo_type=target.repo_type)
    there = {item.path: item.size for item in tree if isinstance(item, RepoFile)}
    for name, size in files.items():
        if there.get(name) != size:
            found = f"has {there[name]} bytes" if name in there else "is missing"
            raise PushError(f"{name} at {target.repo_id}@{revision} {found}, expected {size} bytes: push again")
    report(f"verified at {revision}: {len(files)} files")
    if plan.contents.kind == SPACE:
        return {}
    if n_tensors := compare_tensors(api, target.repo_id, revision, plan.tensors):
        report(f"verified at {revision}: {n_tensors} tensors have the names, types and shapes of the local ones")
    loaded = load_fresh(
        target.repo_id,
        plan.contents.kind,
        revision=revision,
        full=full,
        base=plan.base,
        token=api.token if isinstance(api.token, str) else get_token(),
    )
    parts = ", ".join(str(loaded[key]) for key in ("class", "processor") if key in loaded)
    said = f"; for grey frames it says {loaded['said']!r}" if "said" in loaded else ""
    report(f"verified at {revision}: loads without livecc-hf ({parts}){said}")
    return loaded


def _size(n_bytes: int) -> str:
    value = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
