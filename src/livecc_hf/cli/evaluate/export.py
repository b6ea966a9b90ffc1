"""`livecc evaluate export`: commentaries in the layouts of other evaluators."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Write commentaries as Proact-VL has them, the text of each second, or as StreamingVLM's judge has "
        "them, in parts of 100 seconds."
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", help="commentaries with turns")
    parser.add_argument("--format", required=True, choices=("proact-vl", "inf-streams"), help="whose layout")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where lines go (.jsonl)")


def run(args: argparse.Namespace) -> int:
    """Write the lines, and say where they are."""
    from livecc_hf.evaluation.exporting import export

    n = export(args.predictions, args.format, args.out)
    print(f"wrote {args.out}, {n:,} lines", file=sys.stderr)
    return 0
