"""`livecc data`: make a dataset from videos, fetch videos, push a dataset to the Hub."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from livecc_hf.assets.bundled_recipes import recipe_path
from livecc_hf.utils.extras import require_extra

from .main import OneLineParser
from .tasks import add_task, make_tasks, run_task

_OVERRIDE = re.compile(r"[\w.:]+=")
_BUILD_OPTIONS = ("--config", "--recipe", "--input", "--out", "--engine", "--limit", "--stages")  # those with a value


class _TaskParser(OneLineParser):
    """May take `key=value` between options too, which argparse accepts in one place only."""

    takes_overrides = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """Parse with the `key=value` words, if it takes any, moved behind the options."""
        if not self.takes_overrides:
            return super().parse_known_args(args, namespace)
        words = list(args or ())
        is_value = [before in _BUILD_OPTIONS for before in ["", *words][: len(words)]]
        moved = [bool(_OVERRIDE.match(word)) and not value for word, value in zip(words, is_value, strict=True)]
        ordered = sorted(range(len(words)), key=lambda index: moved[index])
        return super().parse_known_args([words[index] for index in ordered], namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    tasks = make_tasks(parser, _TaskParser)
    for add in (_add_build, _add_fetch, _add_push, _add_shapes):
        add(tasks)


def _add_build(tasks: argparse._SubParsersAction) -> None:
    build = add_task(
        tasks,
        "build",
        _build,
        help="videos with captions or speech become a dataset",
        description="Make a dataset of timed commentary from videos. Started again after an interruption, it goes on.",
    )
    build.takes_overrides = True
    build.add_argument("--config", metavar="RECIPE", help="a YAML recipe, such as recipes/data/my_videos.yaml")
    build.add_argument("--recipe", metavar="NAME", help="a recipe that comes with the package, such as my_videos")
    build.add_argument("--input", metavar="PATH", help="folder of videos, or a .jsonl or .parquet manifest")
    build.add_argument("--out", metavar="FOLDER", help="where the result goes")
    build.add_argument("--engine", choices=("local", "ray"), help="processes on this machine (default), or Ray Data")
    build.add_argument("--limit", type=int, metavar="N", help="only the first N videos, for a trial")
    build.add_argument("--stages", metavar="A,B", help="run only these of the recipe's stages")
    build.add_argument("--restart", action="store_true", default=None, help="throw away what is finished in the folder")
    build.add_argument(
        "overrides", nargs="*", metavar="key=value", help="options, and thresholds as stage.threshold=value"
    )


def _add_fetch(tasks: argparse._SubParsersAction) -> None:
    fetch = add_task(
        tasks,
        "fetch",
        _fetch,
        help="download videos with captions and metadata, by yt-dlp",
        description="Download videos, captions and metadata with yt-dlp, slowly enough to be polite. Started again, it "
        "goes on. Check that you may use what you download.",
    )
    fetch.add_argument("urls", metavar="URLS_FILE", help="a text file with one address a line; # begins a comment")
    fetch.add_argument("out", metavar="OUT", help="folder for the videos")
    fetch.add_argument("--languages", default="en", metavar="A,B", help="captions to fetch (default: %(default)s)")
    fetch.add_argument("--max-height", type=int, default=720, metavar="PX", help="tallest video (default: %(default)s)")
    fetch.add_argument("--no-video", action="store_true", help="captions and metadata only, to choose videos by")
    fetch.add_argument("--rate", default="4M", metavar="BYTES", help="bytes per second, as 500K or 4M; 0: no limit")
    fetch.add_argument("--sleep", type=float, default=5.0, metavar="S", help="seconds between videos, up to 3 times it")
    fetch.add_argument("--retries", type=int, default=10, metavar="N", help="of a request (default: %(default)s)")
    fetch.add_argument("--cookies", metavar="FILE", help="a cookies.txt file")


def _add_push(tasks: argparse._SubParsersAction) -> None:
    push = add_task(
        tasks,
        "push",
        _push,
        help="upload a dataset folder to the Hub",
        description="Upload a dataset folder to the Hub in parts. Started again, it goes on.",
    )
    push.add_argument("folder", metavar="FOLDER", help="the result of livecc data build, or a dataset folder")
    push.add_argument("repo", metavar="REPO", help="USER/NAME; made if it does not exist")
    push.add_argument(
        "--public", action="store_true", help="a repository that is made is public, and one that is may be pushed to"
    )
    push.add_argument("--revision", metavar="BRANCH", help="branch, made if it does not exist (default: main)")


def _add_shapes(tasks: argparse._SubParsersAction) -> None:
    shapes = add_task(
        tasks,
        "shapes",
        _shapes,
        help="a folder of narrated videos of moving shapes, to try training with",
        description="Make a folder of narrated videos of coloured shapes, as livecc-tiny knows them, to try training "
        "without videos of your own: livecc train --recipe own-videos/tiny-cpu",
    )
    shapes.add_argument("out", metavar="FOLDER", help="where they go, each with its words beside it")
    shapes.add_argument("--videos", type=int, default=64, metavar="N", help="how many (default: 64)")
    shapes.add_argument("--seconds", type=int, default=16, metavar="S", help="length of each (default: 16)")
    shapes.add_argument(
        "--narrator",
        choices=("other", "plain"),
        default="other",
        help="other: glides, exits ... (default); plain: moves, leaves ..., as livecc-tiny speaks already",
    )
    shapes.add_argument("--first", type=int, default=0, metavar="N", help="number of the first; others are new scenes")
    return shapes


run = run_task  # what the command calls


def _build(args: argparse.Namespace) -> int:
    require_extra("data", "livecc data build", "datasets", "matplotlib")
    from livecc_hf.production.build import build
    from livecc_hf.production.options import load_options

    if args.recipe is not None:
        if args.config is not None:
            raise ValueError("--recipe and --config both name a recipe: give one")
        args.config = str(recipe_path("data", args.recipe))
    names = ("input", "out", "engine", "limit", "restart")
    options = load_options(args.config, args.overrides, args.stages, **{name: getattr(args, name) for name in names})
    result = build(options)
    what = f"{result.n_clips:,} {'videos' if result.dataset is None else 'clips'}"
    place = result.out / "videos.parquet" if result.dataset is None else result.dataset
    print(f"wrote {what} to {place}; look at {result.out / 'report.html'}", file=sys.stderr)
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from livecc_hf.production.inputs.fetch import FetchOptions, fetch, read_urls

    options = FetchOptions(
        languages=tuple(name.strip() for name in args.languages.split(",") if name.strip()),
        max_height_px=args.max_height,
        video=not args.no_video,
        rate=args.rate,
        sleep_s=args.sleep,
        retries=args.retries,
        cookies=args.cookies,
    )
    result = fetch(read_urls(args.urls), args.out, options)
    print(f"{result.done} fetched, {result.known} were there, {len(result.failed)} failed", file=sys.stderr)
    for url, reason in result.failed:
        print(f"failed: {url}: {reason}", file=sys.stderr)
    return 0 if not result.failed else 1


def _push(args: argparse.Namespace) -> int:
    from pathlib import Path

    require_extra("data", "livecc data push", "datasets")
    from livecc_hf.production.outputs.push import push_dataset

    folder = Path(args.folder).expanduser()
    inside = folder / "dataset"
    folder = inside if (inside / "README.md").is_file() else folder
    print(push_dataset(folder, args.repo, private=not args.public, revision=args.revision))
    return 0


def _shapes(args: argparse.Namespace) -> int:
    from livecc_hf.tiny.folder import write_narrated_folder

    write_narrated_folder(args.out, args.videos, args.seconds, args.narrator, args.first)
    print(f"wrote {args.videos} videos with their words to {args.out}", file=sys.stderr)
    return 0
