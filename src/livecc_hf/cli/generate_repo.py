"""`livecc generate-repo`: write a repository of generation code for stock models of the backbones."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="OUT", help="folder to write; must not exist, or be empty")


def run(args: argparse.Namespace) -> int:
    """Write the folder, and print the command that publishes it."""
    from livecc_hf.publishing.generation_repo import write_generation_repo

    out = write_generation_repo(args.out)
    print(f"wrote {out}; publish it with: livecc push {out} USER/NAME", file=sys.stderr)
    return 0
