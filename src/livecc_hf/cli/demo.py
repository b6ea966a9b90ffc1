"""`livecc demo`: the page on this computer, in the browser."""

from __future__ import annotations

import argparse
import logging
import webbrowser
from pathlib import Path

from livecc_hf.cli.lazy_service import lazy_service, token_limit
from livecc_hf.cli.model_arguments import (
    add_model_arguments,
    check_stream_options,
    check_window_options,
)
from livecc_hf.cli.status import Status
from livecc_hf.cli.stream_arguments import add_option_arguments
from livecc_hf.serve.settings import ServeSettings
from livecc_hf.utils.extras import require_extra

_HOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "video", nargs="?", type=Path, metavar="VIDEO", help="a file to offer; default: the bundled clip"
    )
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    parser.add_argument("--quiet", action="store_true", help="no messages but the address, only warnings and errors")
    add_model_arguments(parser.add_argument_group("model"))
    add_option_arguments(parser.add_argument_group("generation"))


def run(args: argparse.Namespace) -> int:
    """Serve this computer until interrupted."""
    require_extra("serve", "livecc demo")
    check_window_options(args)
    check_stream_options(args)
    if args.video is not None and not args.video.is_file():
        raise ValueError(f"{args.video} is not a file: give a video that browsers play, such as an MP4, or none")
    from livecc_hf.checkpoints.names import check_model_name
    from livecc_hf.serve.server import exit_on_sigterm, listen, make_server

    if args.model is not None:
        check_model_name(args.model)
    status = Status(quiet=args.quiet)

    def started(failure: Exception | None) -> None:
        status.clear()
        # What is wrong with the model is told by the page and in a line of the log; a defect with its traceback.
        if failure is not None and not isinstance(failure, OSError | ValueError):
            logging.error("the model was not loaded", exc_info=failure)

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    with listen(_HOST, args.port) as listener:
        exit_on_sigterm()
        settings = ServeSettings(**token_limit(args))  # without a token: only this computer's users reach it
        server = make_server(lazy_service(args, settings, status, started), clip=args.video)
        url = f"http://{_HOST}:{listener.getsockname()[1]}/"
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if not args.no_browser:
            webbrowser.open(url)  # it waits for an answer, which comes when the server runs
        server.run(sockets=[listener])
    return 0
