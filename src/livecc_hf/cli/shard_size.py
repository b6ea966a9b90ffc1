"""`--max-shard-size` of the commands that write a model."""

from __future__ import annotations

import argparse
import re

_SIZE = re.compile(r"\d+(\.\d+)?(KB|MB|GB|TB)", re.IGNORECASE)


def add_shard_size(parser: argparse.ArgumentParser) -> None:
    """Declare `--max-shard-size`."""
    parser.add_argument(
        "--max-shard-size",
        type=parse_size,
        default="2GB",
        metavar="SIZE",
        help="largest weight file, such as 500MB; default: %(default)s",
    )


def parse_size(text: str) -> str:
    """Return a size such as `2GB` as it is, since a wrong one would be reported only after the weights were loaded.

    Raises:
        argparse.ArgumentTypeError: if the text is not a positive number with a unit.
    """
    if not _SIZE.fullmatch(text) or not float(text[:-2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: expected one such as 500MB or 2GB")
    return text
