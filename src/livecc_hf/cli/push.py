"""`livecc push`: upload a model, an adapter or a Space to the Hub."""

from __future__ import annotations

import argparse
import sys

from livecc_hf.cli.status import quiet_hub


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Check a folder, upload it to the Hub (private unless --public) and verify the upload. After an interruption, "
        "run the command again to continue."
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help="a model, an adapter, a merged model, a Space or generation code"
    )
    parser.add_argument("repo", metavar="USER/NAME", help="repository; created if it does not exist")
    parser.add_argument(
        "--public", action="store_true", help="create a public repository, and allow pushing to an existing public one"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--revision", metavar="BRANCH", help="branch; created if it does not exist; default: main")
    place.add_argument("--pr", action="store_true", help="open a pull request")
    parser.add_argument("--base-id", metavar="ID", help="Hub id of an adapter's base, if the folder names a local path")
    parser.add_argument("--license", metavar="L", help="licence, written into the uploaded card")
    parser.add_argument("--message", metavar="M", help="the commit's first line")
    parser.add_argument(
        "--dry-run", action="store_true", help="check and print what would be uploaded, without network"
    )
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--no-verify", action="store_true", help="do not verify the upload")
    after.add_argument(
        "--verify",
        choices=("parts", "full"),
        default="parts",
        help="parts: config, code, processor and the tensors' names and shapes (default); full: also one turn",
    )


def run(args: argparse.Namespace) -> int:
    """Push the folder, and print the repository's URL and the commit.

    Raises:
        ValueError, OSError: as of `plan_push` and `send`.
    """
    from livecc_hf.publishing.push import PushOptions, describe_plan, plan_push, require_token, send

    quiet_hub(args.debug)  # not quiet_libraries, which imports transformers: only a model needs it
    options = PushOptions(
        public=args.public,
        revision=args.revision,
        pull_request=args.pr,
        base_id=args.base_id,
        license=args.license,
        message=args.message,
        verify="none" if args.no_verify else args.verify,
    )
    if not args.dry_run:
        require_token()
    plan, target = plan_push(args.folder, args.repo, options)
    for line in describe_plan(plan, target):
        print(line, file=sys.stdout if args.dry_run else sys.stderr)
    if args.dry_run:
        print("checked card, code and weights; nothing was uploaded")
        return 0
    pushed = send(plan, target, options, report=lambda line: print(line, file=sys.stderr))
    if pushed.pull_request:
        print(f"pull request: {pushed.pull_request}", file=sys.stderr)
    print(pushed.url, pushed.commit)
    return 0
