"""`livecc evaluate run`: run a model on a benchmark."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from livecc_hf.cli.model_arguments import add_model_arguments, check_model_options
from livecc_hf.cli.status import quiet_libraries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Run a model on a benchmark and write its predictions. After an interruption, run the command again to "
        "continue. Use accelerate launch to share the work between GPUs."
    )
    parser.add_argument(
        "suite", metavar="SUITE", help="a benchmark, see livecc evaluate list; A,B: several on the same videos"
    )
    parser.add_argument("--videos", required=True, type=Path, metavar="DIR", help="folder with the benchmark's videos")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the predictions")
    parser.add_argument("--protocol", help="protocol of the benchmark; default: the first one in livecc evaluate list")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows, for a trial")
    parser.add_argument("--annotations", metavar="FILE", help="the benchmark's rows; default: from the Hub")
    parser.add_argument("--dataset-revision", metavar="REVISION", help="revision of the dataset on the Hub")
    parser.add_argument("--subtitles", type=Path, metavar="DIR", help="folder with Video-MME's VIDEO.srt files")
    parser.add_argument(
        "--query-form",
        choices=("instruct", "base"),
        default="instruct",
        help="form of the query for commentary: that of the model's training; default: %(default)s",
    )
    # The protocol sets the minimum pixels of a frame.
    add_model_arguments(parser.add_argument_group("model"), has_default=False, frame_options=("max_pixels",))


def run(args: argparse.Namespace) -> int:
    """Run the rows without a prediction, and print the files; return 1 if some failed."""
    from livecc_hf.evaluation.running.plan import RunOptions
    from livecc_hf.evaluation.running.run import ModelSource
    from livecc_hf.evaluation.running.run import run as run_suites

    check_model_options(args)
    quiet_libraries(args.debug)
    options = RunOptions(
        protocol=args.protocol,
        limit=args.limit,
        annotations=args.annotations,
        dataset_revision=args.dataset_revision,
        subtitles=args.subtitles,
        query_form=args.query_form,
        max_pixels=args.max_pixels,
    )
    names = ("device", "dtype", "load_in_4bit", "position_scheme", "base", "merge")
    source = ModelSource(args.model, **{name: getattr(args, name) for name in names})
    result = run_suites(args.suite, source, args.videos, args.out, options)
    done = f"{result.n_done:,} of {result.n_rows:,} rows answered"
    print(f"{done}; wrote {', '.join(map(str, result.files))}", file=sys.stderr)
    return 1 if result.failures else 0
