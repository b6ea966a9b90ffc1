"""`livecc convert`: turn a published checkpoint into a model folder with its code."""

from __future__ import annotations

import argparse
import sys

from livecc_hf.cli.shard_size import add_shard_size
from livecc_hf.cli.status import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", help="folder or Hub id of a LiveCC, Qwen2-VL, Qwen2.5-VL or Qwen3-VL"
    )
    parser.add_argument("out", metavar="OUT", help="folder to write; must not exist, or be empty")
    parser.add_argument(
        "--position-scheme",
        choices=("mrope", "sequential", "reference"),
        help="how positions are counted; required unless the source names LiveCC ('reference')",
    )
    parser.add_argument(
        "--grammar",
        choices=("livecc", "streamingvlm"),
        help="how a commentary is written as a chat; default: livecc, or streamingvlm if the source names StreamingVLM",
    )
    add_shard_size(parser)


def run(args: argparse.Namespace) -> int:
    """Convert the checkpoint, and print the folder."""
    from livecc_hf.checkpoints.convert import convert_checkpoint

    quiet_libraries(args.debug)
    out = convert_checkpoint(args.source, args.out, args.position_scheme, args.max_shard_size, args.grammar)
    print(f"wrote {out}", file=sys.stderr)
    return 0
