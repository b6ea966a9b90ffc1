"""`livecc evaluate report`: write a page with charts, timelines and verdicts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from livecc_hf.utils.output_file import make_place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Write an HTML page of predictions and verdicts: scores, charts, timelines of commentaries, and verdicts with "
        "their texts, to review and overrule."
    )
    parser.add_argument("paths", nargs="+", metavar="DIR_OR_FILE", help="predictions, verdicts, or folders of them")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="page to write (.html)")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="folder with the videos, for frames on the page")
    parser.add_argument("--annotations", metavar="FILE", help="LiveSports-3K CC's rows, for the reference commentaries")
    parser.add_argument("--model-name", metavar="NAME", help="the model's name in published verdicts")
    parser.add_argument(
        "--incomplete", action="store_true", help="show headline scores even if rows are missing, with N"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, and print its path."""
    from livecc_hf.evaluation.reporting.report import report

    make_place(args.out, "--out")
    scores = report(args.paths, args.out, args.videos, args.annotations, args.incomplete, args.model_name)
    print(f"wrote {args.out}, with {len(scores)} score{'' if len(scores) == 1 else 's'}", file=sys.stderr)
    return 0
