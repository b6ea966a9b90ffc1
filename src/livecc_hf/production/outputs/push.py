"""Uploads a dataset folder to the Hub."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...publishing.hub import Target, check_token, explain_failures, prepare_repository, upload
from ...utils.reports import Say
from .dataset_folder import VIDEOS, is_on_the_web
from .video_check import why_no_video

logger = logging.getLogger(__name__)

_PARTS = ["README.md", "conversations.jsonl", "data/*.parquet", f"{VIDEOS}/*"]  # fnmatch: * also matches slashes


def push_dataset(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    say: Say | None = None,
) -> str:
    """Upload a dataset folder to the Hub, in several commits if it is large; a second call continues an upload.

    The card, the tables, the conversations and the videos are sent. Other files, and files in `videos/` that are not
    videos, are left out with a warning.

    Several commits, and continuing an upload, need hf_xet, which is installed with huggingface_hub on most platforms.
    Without it, the upload is a single commit.

    Args:
        folder: as `write_dataset_folder` writes it.
        repo_id: `USER/NAME`; created if it does not exist.
        private: create the repository as private, and refuse to push to an existing public one.
        token: of the Hub; default: the token saved by `hf auth login`.
        revision: branch, created if it does not exist; default: main.
        say: called with a line before the files are checked, which takes long if there are many; default: none.

    Returns:
        The repository's URL.

    Raises:
        ValueError: if the folder holds no dataset, the repository's name is invalid, or the Hub refuses the upload.
        ConnectionError: if the Hub cannot be reached, or the connection breaks.
    """
    from huggingface_hub import HfApi

    folder = Path(folder).expanduser()
    if not _is_dataset(folder):
        raise ValueError(f"{folder} is not a dataset folder: expected README.md and data/*.parquet in it")
    target = Target(repo_id, "dataset", not private, revision)
    if say is not None:
        say(f"checking the files of {folder}")
    if n_lost := count_unreachable_videos(folder):
        logger.warning(
            "%d clips of %s name a video outside the folder, which others cannot read: write the folder with "
            "dataset.videos=copy or link to publish the videos too",
            n_lost,
            folder,
        )
    left_out = find_strangers(folder)
    if left_out:
        name, why = next(iter(left_out.items()))
        logger.warning("%d files of %s are left out, such as %s: %s", len(left_out), folder, name, why)
    api = HfApi(token=token)
    with explain_failures(api, target):
        check_token(api)
        url = prepare_repository(api, target)
        ignore = ["**/.*", ".*", *map(glob.escape, left_out)]
        upload(api, target, folder, _PARTS, ignore=ignore, message="Upload dataset")
    return url


def find_strangers(folder: str | os.PathLike) -> dict[str, str]:
    """Return the files of a dataset folder that are not sent, each with the reason. Hidden files are not listed.

    The folder of videos may hold any file, or a link to any file, and only real videos may be published.
    """
    folder, found = Path(folder), {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        if not any(fnmatch.fnmatch(name.as_posix(), part) for part in _PARTS):
            found[name.as_posix()] = "it is not part of a dataset"
        elif name.parts[0] == VIDEOS and (why := why_no_video(path)):
            found[name.as_posix()] = why
    return found


def count_unreachable_videos(folder: str | os.PathLike) -> int:
    """Return the number of clips whose video is neither in the dataset folder nor a URL on the web or the Hub."""
    folder, n_lost = Path(folder), 0
    for shard in sorted(folder.glob("data/*.parquet")):
        counted = pc.value_counts(pq.read_table(shard, columns=["video"])["video"])
        for pair in counted.to_pylist():
            video = pair["values"] or ""
            is_inside = not Path(video).is_absolute() and (folder / video).is_file()
            n_lost += 0 if is_on_the_web(video) or is_inside else pair["counts"]
    return n_lost


def _is_dataset(folder: Path) -> bool:
    return (folder / "README.md").is_file() and any(folder.glob("data/*.parquet"))
