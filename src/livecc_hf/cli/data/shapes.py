"""`livecc data shapes`: make narrated videos of moving shapes, to try training."""

from __future__ import annotations

import argparse
import sys

from livecc_hf.utils.text import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Make a folder of narrated videos of coloured shapes, like those livecc-tiny was trained on, to try training "
        "without your own videos: livecc train --recipe own-videos/tiny-cpu"
    )
    parser.add_argument("out", metavar="FOLDER", help="folder for the videos, each with a caption file")
    parser.add_argument("--videos", type=int, default=64, metavar="N", help="number of videos; default: %(default)s")
    parser.add_argument(
        "--seconds",
        type=int,
        default=16,
        metavar="S",
        help="length of each video in seconds, 4 or more; default: %(default)s",
    )
    parser.add_argument(
        "--narrator",
        choices=("other", "plain"),
        default="other",
        help="other: says glides, exits ... (default); plain: says moves, leaves ..., as livecc-tiny does",
    )
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        metavar="N",
        help="number of the first scene; other numbers give new scenes; default: %(default)s",
    )


def run(args: argparse.Namespace) -> int:
    """Write the videos, and print their folder."""
    from livecc_hf.tiny.folder import write_narrated_folder

    write_narrated_folder(args.out, args.videos, args.seconds, args.narrator, args.first)
    print(f"wrote {counted(args.videos, 'video')} with their words to {args.out}", file=sys.stderr)
    return 0
