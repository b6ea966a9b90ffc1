"""`livecc card`: a card gets a gallery with a commented clip, and measured scores."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from livecc_hf.cli.status import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Put a gallery (a clip that the model comments on, and a sheet of its frames) and scores into the README.md of "
        "a model's folder. What an earlier call put there is replaced; the rest of the card stays."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a model's or adapter's folder with its README.md")
    parser.add_argument("--clip", type=Path, metavar="VIDEO", help="what the model comments on; 30 s of it at most")
    parser.add_argument("--start", type=float, metavar="S", help="where in the clip to start, in seconds")
    parser.add_argument("--end", type=float, metavar="S", help="where in the clip to stop, in seconds")
    parser.add_argument("--query", help="what to comment on; default: the model's own")
    parser.add_argument("--scores", type=Path, metavar="DIR", help="what `livecc evaluate score --out DIR` wrote")


def run(args: argparse.Namespace) -> int:
    """Complete the card, and say what was written.

    Raises:
        ValueError, OSError: as `complete_card` does.
    """
    from livecc_hf.publishing.gallery import complete_card

    if args.clip is not None:  # or no model is loaded
        quiet_libraries(args.debug)
    for path in complete_card(args.folder, args.clip, args.scores, args.start, args.end, args.query):
        print(f"wrote {path} ({path.stat().st_size / 1000:,.0f} kB)", file=sys.stderr)
    return 0
