"""The console script: finds the command, runs it, and turns failures into one line and an exit code.

Exit codes: 0 done, 2 an error of input or environment, 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from livecc_hf import __version__

# Name of a command: what it does, and the module with its `add_arguments` and `run`.
COMMANDS = {
    "commentate": ("comment on a video while it plays", "livecc_hf.cli.commentate"),
    "convert": ("turn a published checkpoint into a model folder with code", "livecc_hf.cli.convert"),
    "data": ("turn videos with captions or speech into a dataset", "livecc_hf.cli.data"),
    "merge": ("put an adapter and its base into one model folder", "livecc_hf.cli.merge"),
    "serve": ("comment for clients that send frames over the network", "livecc_hf.cli.serve"),
    "train": ("fine-tune a model; arguments as in recipes/, see livecc train --help", "livecc_hf.cli.train"),
}
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_MAX_MESSAGE = 600


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        if "://" in message:  # an argument in the wrong place may hold a password
            from livecc_hf.sources.spec import redact

            message = re.sub(r"[^\s'\"=]+://[^\s'\"]+", lambda address: redact(address[0]), message)
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: for `--help`, `--version` and wrong arguments.
        Exception: whatever a command raises, with `--debug` or for a defect in the program.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    command = next((word for word in argv if not word.startswith("-")), None)
    try:
        if command == "train":  # its arguments are read by the trainer's own parser
            argv.remove("train")
            rest = [word for word in argv if word != "--debug"]
            return importlib.import_module(COMMANDS[command][1]).run(rest)
        args = make_parser(command).parse_args(argv)
        if args.command is None:
            make_parser().print_help()
            return EXIT_ERROR
        return importlib.import_module(COMMANDS[args.command][1]).run(args)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left. Point standard output elsewhere, or the interpreter's last flush fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (ValueError, OSError, ImportError, RuntimeError, *_network_errors()) as error:
        if debug:
            raise
        print(f"livecc: error: {describe(error)}", file=sys.stderr)
        return EXIT_ERROR


def _network_errors() -> tuple[type[Exception], ...]:
    """What a connection to the Hub that breaks raises, where something has connected."""
    errors = (getattr(sys.modules.get(name), "TransportError", None) for name in ("httpx", "httpx2"))
    return tuple(error for error in errors if error is not None)


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole program; only the arguments of `command` are filled in, so that help stays fast."""
    parser = OneLineParser(prog="livecc", description="Live video commentary with LiveCC.", allow_abbrev=False)
    _add_debug(parser, default=False)
    parser.add_argument("--version", action="version", version=f"livecc-hf {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=OneLineParser)
    for name, (summary, module) in COMMANDS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        subparser = subparsers.add_parser(name, help=summary, description=description, allow_abbrev=False)
        _add_debug(subparser, default=argparse.SUPPRESS)  # a default would undo `livecc --debug COMMAND`
        if name == command:
            importlib.import_module(module).add_arguments(subparser)
    return parser


def _add_debug(parser: argparse.ArgumentParser, default: bool | str) -> None:
    parser.add_argument("--debug", action="store_true", default=default, help="show the full traceback of an error")


def describe(error: BaseException) -> str:
    """An error as one line that says which file, if it was about one."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    else:
        message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + " ..."


if __name__ == "__main__":
    sys.exit(main())
