"""`livecc evaluate report`: one page with charts, timelines and verdicts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Write one HTML page of predictions and verdicts: figures, charts, timelines of commentaries, and "
        "verdicts with their texts, to look at and overrule."
    )
    parser.add_argument("paths", nargs="+", metavar="DIR_OR_FILE", help="predictions, verdicts, or folders of them")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the page (.html)")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="folder with the videos, for pictures")
    parser.add_argument("--annotations", metavar="FILE", help="LiveSports-3K CC's rows, for what people said")
    parser.add_argument("--model-name", metavar="NAME", help="of published verdicts: which winner is the model")
    parser.add_argument("--incomplete", action="store_true", help="show headlines though rows are missing, with N")


def run(args: argparse.Namespace) -> int:
    """Write the page, and say where it is."""
    from livecc_hf.evaluation.reporting.report import report

    scores = report(args.paths, args.out, args.videos, args.annotations, args.incomplete, args.model_name)
    print(f"wrote {args.out}, with {len(scores)} score{'' if len(scores) == 1 else 's'}", file=sys.stderr)
    return 0
