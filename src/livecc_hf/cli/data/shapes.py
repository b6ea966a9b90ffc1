"""`livecc data shapes`: narrated videos of moving shapes, to try training with."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Make a folder of narrated videos of coloured shapes, as livecc-tiny knows them, to try training "
        "without videos of your own: livecc train --recipe own-videos/tiny-cpu"
    )
    parser.add_argument("out", metavar="FOLDER", help="where they go, each with its words beside it")
    parser.add_argument("--videos", type=int, default=64, metavar="N", help="how many (default: 64)")
    parser.add_argument("--seconds", type=int, default=16, metavar="S", help="length of each (default: 16)")
    parser.add_argument(
        "--narrator",
        choices=("other", "plain"),
        default="other",
        help="other: glides, exits ... (default); plain: moves, leaves ..., as livecc-tiny speaks already",
    )
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first; others are new scenes")


def run(args: argparse.Namespace) -> int:
    """Write the videos, and say where they are."""
    from livecc_hf.tiny.folder import write_narrated_folder

    write_narrated_folder(args.out, args.videos, args.seconds, args.narrator, args.first)
    print(f"wrote {args.videos} videos with their words to {args.out}", file=sys.stderr)
    return 0
