"""`livecc evaluate lmms-tasks`: print the folder of tasks for lmms-eval."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Print the folder of tasks for lmms-eval: lmms-eval --include_path $(livecc evaluate lmms-tasks)."
    )


def run(args: argparse.Namespace) -> int:
    """Print the folder."""
    from livecc_hf.evaluation.lmms import tasks_folder

    print(tasks_folder())
    return 0
