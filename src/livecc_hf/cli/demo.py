"""`livecc demo`: serve the web page to this computer and open it in the browser."""

from __future__ import annotations

import argparse
import logging
import threading
import webbrowser
from pathlib import Path

from livecc_hf.cli.lazy_service import lazy_service, token_limit
from livecc_hf.cli.model_arguments import (
    add_model_arguments,
    check_model_options,
    check_stream_options,
    check_window_options,
)
from livecc_hf.cli.status import Status
from livecc_hf.cli.stream_arguments import add_option_arguments
from livecc_hf.modeling.video_file import local_file
from livecc_hf.serve.settings import ServeSettings
from livecc_hf.sources.early_check import check_is_no_stream, check_is_video
from livecc_hf.utils.extras import require_extra

_HOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("video", nargs="?", metavar="VIDEO", help="the page's sample video; default: the bundled clip")
    parser.add_argument("--port", type=int, default=0, help="port of the page; default: any free port")
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening it")
    parser.add_argument("--quiet", action="store_true", help="print only the address, warnings and errors")
    add_model_arguments(parser.add_argument_group("model"))
    add_option_arguments(parser.add_argument_group("generation"))


def _clip(video: str) -> Path:
    """Return the page's video; raise an error if it is none."""
    check_is_no_stream(video, "a video file that browsers play, such as an MP4")
    check_is_video(video)
    return Path(local_file(video))


def run(args: argparse.Namespace) -> int:
    """Serve this computer until interrupted."""
    require_extra("serve", "livecc demo")
    check_window_options(args)
    check_stream_options(args)
    clip = None if args.video is None else _clip(args.video)
    from livecc_hf.serve.server import exit_on_sigterm, listen, make_server

    check_model_options(args)
    status = Status(quiet=args.quiet)

    def started(failure: Exception | None) -> None:
        status.clear()
        # The page and a log line of the service report the failure; an unexpected error also needs its traceback.
        if failure is not None and not isinstance(failure, OSError | ValueError):
            logging.error("the model could not be loaded", exc_info=failure)

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    with listen(_HOST, args.port) as listener:
        exit_on_sigterm()
        settings = ServeSettings(**token_limit(args))  # no token: only this computer's users can reach it
        server = make_server(lazy_service(args, settings, status, started), clip=clip)
        url = f"http://{_HOST}:{listener.getsockname()[1]}/"
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if not args.no_browser:
            # In a thread, since text browsers run until they are closed. The socket listens already.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server.run(sockets=[listener])
    return 0
