"""`livecc evaluate compare`: compare two files of one benchmark, row by row."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = "Compare two files of answers, verdicts or commentaries of one benchmark, row by row."
    parser.add_argument("a", metavar="A", help="file of predictions or verdicts")
    parser.add_argument("b", metavar="B", help="file of the same benchmark")
    parser.add_argument("--protocol", help="how answers are read; default: as each file says")
    parser.add_argument(
        "--model-names",
        nargs=2,
        default=(None, None),
        metavar=("NAME_A", "NAME_B"),
        help="names of the models in published verdicts",
    )
    parser.add_argument("--across-protocols", action="store_true", help="compare files of different protocols too")


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    from livecc_hf.evaluation.reporting.score_files import comparison_markdown
    from livecc_hf.evaluation.scoring import compare

    names = tuple(args.model_names)
    print(comparison_markdown(compare(args.a, args.b, args.protocol, names, args.across_protocols)), end="")
    return 0
