"""`livecc data fetch`: videos with captions and metadata, by yt-dlp."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the task's arguments."""
    parser.description = (
        "Download videos, captions and metadata with yt-dlp, slowly enough to be polite. Started again, it "
        "goes on. Check that you may use what you download."
    )
    parser.add_argument("urls", metavar="URLS_FILE", help="a text file with one address a line; # begins a comment")
    parser.add_argument("out", metavar="OUT", help="folder for the videos")
    parser.add_argument("--languages", default="en", metavar="A,B", help="captions to fetch (default: %(default)s)")
    parser.add_argument(
        "--max-height", type=int, default=720, metavar="PX", help="tallest video (default: %(default)s)"
    )
    parser.add_argument("--no-video", action="store_true", help="captions and metadata only, to choose videos by")
    parser.add_argument("--rate", default="4M", metavar="BYTES", help="bytes per second, as 500K or 4M; 0: no limit")
    parser.add_argument(
        "--sleep", type=float, default=5.0, metavar="S", help="seconds between videos, up to 3 times it"
    )
    parser.add_argument("--retries", type=int, default=10, metavar="N", help="of a request (default: %(default)s)")
    parser.add_argument("--cookies", metavar="FILE", help="a cookies.txt file")


def run(args: argparse.Namespace) -> int:
    """Download what is not there yet; return 1 if some failed."""
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
