"""`livecc space`: write the folder of a Space in which a model comments."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="OUT", help="folder to write; must not exist, or be empty")
    parser.add_argument("--model", required=True, metavar="ID", help="Hub id of the model or adapter")
    parser.add_argument("--title", metavar="TEXT", help="title of the Space; default: the model's name")
    parser.add_argument("--no-check", action="store_true", help="do not check that the model is on the Hub")


def run(args: argparse.Namespace) -> int:
    """Write the folder, and print the command that publishes it."""
    from livecc_hf.space.folder import write_space

    out = write_space(args.out, args.model, args.title, check=not args.no_check)
    print(f"wrote {out}; publish it with: livecc push {out} USER/NAME", file=sys.stderr)
    return 0
