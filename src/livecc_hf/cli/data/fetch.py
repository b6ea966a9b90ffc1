"""`livecc data fetch`: download videos with captions and metadata, with yt-dlp."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Download videos, captions and metadata with yt-dlp, at a polite rate. After an interruption, run the command "
        "again to continue. Check that you may use what you download."
    )
    parser.add_argument("urls", metavar="URLS_FILE", help="a text file with one URL a line; # begins a comment")
    parser.add_argument("out", metavar="OUT", help="folder for the videos")
    parser.add_argument(
        "--languages", default="en", metavar="A,B", help="languages of captions to fetch; default: %(default)s"
    )
    parser.add_argument(
        "--max-height",
        type=int,
        metavar="PX",
        help="maximum height of a video in pixels; default: 720",
    )
    parser.add_argument("--no-video", action="store_true", help="fetch captions and metadata only, to select videos")
    parser.add_argument(
        "--rate",
        default="4M",
        metavar="BYTES",
        help="maximum bytes a second, such as 500K or 4M; 0: no limit; default: 4M",
    )
    parser.add_argument(
        "--sleep",
        type=float,
        default=5.0,
        metavar="S",
        help="minimum seconds between videos; at random up to 3 times as many; default: %(default)g",
    )
    parser.add_argument(
        "--retries", type=int, default=10, metavar="N", help="retries of a request; default: %(default)s"
    )
    parser.add_argument("--cookies", metavar="FILE", help="a cookies.txt file")


def run(args: argparse.Namespace) -> int:
    """Download the videos that are missing; return 1 if some failed."""
    from livecc_hf.production.inputs.fetch import FetchOptions, fetch, read_urls

    if args.no_video and args.max_height is not None:
        raise ValueError(f"--max-height {args.max_height}: not with --no-video, which does not use it; leave it out")
    height = {} if args.max_height is None else {"max_height_px": args.max_height}
    options = FetchOptions(
        **height,
        languages=tuple(name.strip() for name in args.languages.split(",") if name.strip()),
        video=not args.no_video,
        rate=args.rate,
        sleep_s=args.sleep,
        retries=args.retries,
        cookies=args.cookies,
    )
    result = fetch(read_urls(args.urls), args.out, options)
    print(f"{result.done} fetched, {result.known} present already, {len(result.failed)} failed", file=sys.stderr)
    for url, reason in result.failed:
        print(f"failed: {url}: {reason}", file=sys.stderr)
    return 0 if not result.failed else 1
