"""`livecc evaluate export`: write commentaries in the formats of other evaluators."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from livecc_hf.utils.output_file import make_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Write commentaries in the format of Proact-VL (the text of each second) or of StreamingVLM's judge (parts of "
        "100 seconds)."
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", help="file of commentaries with turns")
    parser.add_argument("--format", required=True, choices=("proact-vl", "inf-streams"), help="the format")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write (.jsonl)")


def run(args: argparse.Namespace) -> int:
    """Write the file, and print its path."""
    from livecc_hf.evaluation.exporting import export

    make_place(args.out, "--out")
    n = export(args.predictions, args.format, args.out)
    print(f"wrote {args.out}, {n:,} lines", file=sys.stderr)
    return 0
