"""`livecc evaluate list`: list the benchmarks and their protocols."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = "List the benchmarks, their rows and their protocols."


def run(args: argparse.Namespace) -> int:
    """Print the table of benchmarks."""
    from livecc_hf.evaluation.scoring import list_suites

    suites = list_suites()
    rows = [("benchmark", "rows", "questions from", "protocols")]
    rows += [(suite.name, f"{suite.n_rows:,}", suite.dataset, ", ".join(suite.protocols)) for suite in suites]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    return 0
