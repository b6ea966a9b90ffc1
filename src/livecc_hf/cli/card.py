"""`livecc card`: add a gallery and measured scores to a model card."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from livecc_hf.cli.status import quiet_libraries
from livecc_hf.cli.times import parse_time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Add a gallery (a clip with the model's comments, and a sheet of its frames) and scores to the README.md of a "
        "model's folder. Sections of an earlier call are replaced; the rest of the card is kept."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a model's or adapter's folder with its README.md")
    parser.add_argument("--clip", type=Path, metavar="VIDEO", help="clip to comment on; at most 30 s of it are used")
    parser.add_argument("--start", type=parse_time, metavar="TIME", help="where to start: seconds, or hh:mm:ss.s")
    parser.add_argument("--end", type=parse_time, metavar="TIME", help="where to stop")
    parser.add_argument("--query", help="what to comment on; default: the model's own query")
    parser.add_argument(
        "--scores", type=Path, metavar="DIR", help="folder written by `livecc evaluate score --out DIR`"
    )


def run(args: argparse.Namespace) -> int:
    """Update the card, and print the files that were written.

    Raises:
        ValueError, OSError: as of `complete_card`.
    """
    from livecc_hf.publishing.gallery import complete_card

    if args.clip is not None:  # only then a model is loaded
        quiet_libraries(args.debug)
    for path in complete_card(args.folder, args.clip, args.scores, args.start, args.end, args.query):
        print(f"wrote {path} ({path.stat().st_size / 1000:,.0f} kB)", file=sys.stderr)
    return 0
