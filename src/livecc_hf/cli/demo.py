"""`livecc demo`: the page on this computer, in the browser."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import webbrowser
from pathlib import Path

from livecc_hf.cli.model_arguments import (
    add_generation_arguments,
    add_model_arguments,
    check_stream_options,
    check_window_options,
    load_model_of,
    stream_options_of,
)
from livecc_hf.cli.status import Status
from livecc_hf.extras import require_extra

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
    add_generation_arguments(parser.add_argument_group("generation"))


def run(args: argparse.Namespace) -> int:
    """Serve this computer until interrupted."""
    require_extra("serve", "livecc demo")
    check_window_options(args)
    check_stream_options(args)
    if args.video is not None and not args.video.is_file():
        raise ValueError(f"{args.video} is no file: give a video that browsers play, such as an MP4, or none")
    from livecc_hf.modeling import StreamOptions
    from livecc_hf.serve.server import exit_on_sigterm, listen, make_server
    from livecc_hf.serve.service import CommentaryService
    from livecc_hf.serve.settings import ServeSettings

    status = Status(quiet=args.quiet)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    with listen(_HOST, args.port) as listener:
        exit_on_sigterm()
        settings = ServeSettings()  # without a token: only this computer's users reach it
        if args.max_new_tokens is not None:
            settings = dataclasses.replace(settings, max_new_tokens=max(args.max_new_tokens, settings.max_new_tokens))
        service = CommentaryService(
            None,
            None,
            settings,
            StreamOptions(**stream_options_of(args)),
            load=functools.partial(load_model_of, args, status),
            name=args.model or "livecc-tiny",
        )
        server = make_server(service, clip=args.video)
        url = f"http://{_HOST}:{listener.getsockname()[1]}/"
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if not args.no_browser:
            webbrowser.open(url)  # it waits for an answer, which comes when the server runs
        server.run(sockets=[listener])
    return 0
