"""`livecc data build`: make a dataset from videos with captions or speech."""

from __future__ import annotations

import argparse
import sys

from livecc_hf.assets.bundled_recipes import recipe_path
from livecc_hf.cli.parser import OneLineParser
from livecc_hf.utils.extras import require_extra
from livecc_hf.utils.text import counted


def add_arguments(parser: OneLineParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Make a dataset of timed commentary from videos. After an interruption, run the command again to continue."
    )
    parser.takes_overrides = True
    parser.add_argument("--config", metavar="RECIPE", help="a YAML recipe, such as recipes/data/my_videos.yaml")
    parser.add_argument("--recipe", metavar="NAME", help="a recipe that comes with the package, such as my_videos")
    parser.add_argument("--input", metavar="PATH", help="folder of videos, or a .jsonl or .parquet manifest")
    parser.add_argument("--out", metavar="FOLDER", help="folder for the result")
    parser.add_argument("--engine", choices=("local", "ray"), help="processes on this machine (default), or Ray Data")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N videos, for a trial")
    parser.add_argument("--stages", metavar="A,B", help="run only these of the recipe's stages")
    parser.add_argument("--restart", action="store_true", default=None, help="discard finished work in the folder")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="options, and thresholds as stage.threshold=value"
    )


def run(args: argparse.Namespace) -> int:
    """Build the dataset, and print the paths of the dataset and its report."""
    require_extra("data", "livecc data build", "datasets", "matplotlib")
    from livecc_hf.production.build import build
    from livecc_hf.production.options import load_options

    if args.recipe is not None:
        if args.config is not None:
            raise ValueError("--recipe and --config both name a recipe: give one of them")
        args.config = str(recipe_path("data", args.recipe))
    names = ("input", "out", "engine", "limit", "restart")
    options = load_options(args.config, args.overrides, args.stages, **{name: getattr(args, name) for name in names})
    try:
        result = build(options)
    except KeyboardInterrupt:
        print("finished units are kept: run the same command again to continue", file=sys.stderr)
        raise
    what = counted(result.n_clips, "video" if result.dataset is None else "clip")
    place = result.out / "videos.parquet" if result.dataset is None else result.dataset
    print(f"wrote {what} to {place}; report: {result.out / 'report.html'}", file=sys.stderr)
    return 0
