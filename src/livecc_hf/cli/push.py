"""`livecc push`: a model, an adapter or a Space goes to the Hub."""

from __future__ import annotations

import argparse
import sys

from livecc_hf.cli.status import quiet_hub


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Check a folder, send it to the Hub (private unless --public) and verify what arrived. Started again after an "
        "interruption, it goes on."
    )
    parser.add_argument("folder", metavar="FOLDER", help="a model, an adapter, a merged model or a Space")
    parser.add_argument("repo", metavar="USER/NAME", help="repository; made if it does not exist")
    parser.add_argument(
        "--public", action="store_true", help="a repository that is made is public, and one that is may be pushed to"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--revision", metavar="BRANCH", help="branch, made if it does not exist (default: main)")
    place.add_argument("--pr", action="store_true", help="open a pull request")
    parser.add_argument("--base-id", metavar="ID", help="Hub id of the base, where the folder names a path")
    parser.add_argument("--license", metavar="L", help="licence, written into the card that is sent")
    parser.add_argument("--message", metavar="M", help="the commit's first line")
    parser.add_argument("--dry-run", action="store_true", help="only check and say what would be sent; no network")
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--no-verify", action="store_true", help="do not look at what arrived")
    after.add_argument(
        "--verify",
        choices=("parts", "full"),
        default="parts",
        help="parts: config, code, processor and the tensors' names and shapes (default); full: also one turn",
    )


def run(args: argparse.Namespace) -> int:
    """Push, and print the repository's address and the commit.

    Raises:
        ValueError, OSError: as `push_folder` does.
    """
    from livecc_hf.publishing.push import PushOptions, describe_plan, plan_push, send

    quiet_hub(args.debug)  # transformers is loaded for a model alone: it takes seconds
    options = PushOptions(
        public=args.public,
        revision=args.revision,
        pull_request=args.pr,
        base_id=args.base_id,
        license=args.license,
        message=args.message,
        verify="none" if args.no_verify else args.verify,
    )
    plan, target = plan_push(args.folder, args.repo, options)
    for line in describe_plan(plan, target):
        print(line, file=sys.stdout if args.dry_run else sys.stderr)
    if args.dry_run:
        print("checked: card, code, weights; nothing was sent")
        return 0
    pushed = send(plan, target, options, report=lambda line: print(line, file=sys.stderr))
    if pushed.pull_request:
        print(f"pull request: {pushed.pull_request}", file=sys.stderr)
    print(pushed.url, pushed.commit)
    return 0
