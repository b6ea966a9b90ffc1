"""`livecc merge`: merge an adapter and its base into one model folder."""

from __future__ import annotations

import argparse
import sys

from livecc_hf.cli.shard_size import add_shard_size
from livecc_hf.cli.status import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id of the adapter")
    parser.add_argument("out", metavar="OUT", help="folder to write; must not exist, or be empty")
    parser.add_argument(
        "--base", metavar="FOLDER_OR_HUB_ID", help="the base model; default: the one that the adapter names"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="dtype of the weights written; default: the base's"
    )
    add_shard_size(parser)


def run(args: argparse.Namespace) -> int:
    """Merge the adapter, and print the folder."""
    from livecc_hf.checkpoints.merge import merge_adapter

    quiet_libraries(args.debug)
    out = merge_adapter(args.adapter, args.out, args.base, args.dtype, args.max_shard_size)
    print(f"wrote {out}", file=sys.stderr)
    return 0
