"""Tasks of a command, such as `build` of `livecc data`: declared alike, each with the function that does it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from .main import OneLineParser


def make_tasks(
    parser: argparse.ArgumentParser, parser_class: type[OneLineParser] = OneLineParser
) -> argparse._SubParsersAction:
    """Let a command have tasks, of which one must be named; return what :func:`add_task` takes."""
    return parser.add_subparsers(dest="task", metavar="TASK", required=True, parser_class=parser_class)


def add_task(
    tasks: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    description: str,
) -> argparse.ArgumentParser:
    """Declare a task; return the parser of its arguments.

    Args:
        tasks: of the command.
        name: what it is called.
        run: does it, and returns the exit code.
        help: what it does, in the command's list.
        description: the same, above its own arguments.
    """
    task = tasks.add_parser(name, help=help, description=description, allow_abbrev=False)
    # Also after the task's name, as with the other commands.
    task.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    task.set_defaults(run_task=run)
    return task


def run_task(args: argparse.Namespace) -> int:
    """Do the task that was named; return the exit code.

    Raises:
        ValueError, OSError, ImportError: as its function does.
    """
    return args.run_task(args)
