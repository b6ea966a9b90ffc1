"""`livecc data push`: upload a dataset folder to the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from livecc_hf.utils.extras import require_extra
from livecc_hf.utils.reports import say_to_stderr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Upload a dataset folder to the Hub in parts. After an interruption, run the command again to continue."
    )
    parser.add_argument("folder", metavar="FOLDER", help="the result of livecc data build, or a dataset folder")
    parser.add_argument("repo", metavar="USER/NAME", help="repository; created if it does not exist")
    parser.add_argument(
        "--public", action="store_true", help="create a public repository, and allow pushing to an existing public one"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch; created if it does not exist; default: main")


def run(args: argparse.Namespace) -> int:
    """Push the folder, and print the URL of the dataset."""
    require_extra("data", "livecc data push", "datasets")
    from livecc_hf.production.outputs.push import push_dataset

    folder = Path(args.folder).expanduser()
    inside = folder / "dataset"
    folder = inside if (inside / "README.md").is_file() else folder
    print(push_dataset(folder, args.repo, private=not args.public, revision=args.revision, say=say_to_stderr))
    return 0
