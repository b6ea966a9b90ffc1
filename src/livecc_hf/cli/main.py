"""The console script: finds the command, runs it, and turns failures into one line and an exit code.

Exit codes: 0 done, 2 an error of input or environment, 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from livecc_hf import __version__

# Name of a command: what it does, and the module with its `add_arguments` and `run`.
COMMANDS = {
    "ask": ("answer a question about a video or an image", "livecc_hf.cli.ask"),
    "commentate": ("comment on a video while it plays", "livecc_hf.cli.commentate"),
    "card": ("put a commented clip and scores into a model's card", "livecc_hf.cli.card"),
    "convert": ("turn a published checkpoint into a model folder with code", "livecc_hf.cli.convert"),
    "data": ("turn videos with captions or speech into a dataset", "livecc_hf.cli.data"),
    "demo": ("show a model commenting, in the browser", "livecc_hf.cli.demo"),
    "evaluate": ("score commentaries and answers on benchmarks", "livecc_hf.cli.evaluate"),
    "generate-repo": ("write code with which a stock model comments", "livecc_hf.cli.generate_repo"),
    "merge": ("put an adapter and its base into one model folder", "livecc_hf.cli.merge"),
    "push": ("publish a model, an adapter or a Space on the Hub", "livecc_hf.cli.push"),
    "serve": ("comment for clients that send frames over the network", "livecc_hf.cli.serve"),
    "space": ("write a Space where anybody can watch a model comment", "livecc_hf.cli.space"),
    "train": ("fine-tune a model; arguments as in recipes/, see livecc train --help", "livecc_hf.cli.train"),
}
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_MAX_MESSAGE = 600
_ALIKE = 0.7  # how like two words must be for one to be offered for the other, from 0 to 1


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; a command's parser itself refuses what it does not know."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """Parse, where nothing may be left: argparse would have the parser above a command speak of what is."""
        self._words = list(sys.argv[1:] if args is None else args)
        known, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._meant(left)}")
        return known, left

    def _meant(self, words: Sequence[str]) -> str:
        """Return a suggestion for the first of the words that is nearly an option."""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        for name in (word.partition("=")[0] for word in words if word.startswith("--")):
            if name not in options and (close := difflib.get_close_matches(name, options, 1, _ALIKE)):
                return f"; did you mean {close[0]} for {name}?"
        return ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            names = [str(choice) for choice in action.choices or ()]
            if close := difflib.get_close_matches(str(value), names, 1, _ALIKE):
                error.message += f"; did you mean {close[0]}?"
            raise

    def error(self, message: str) -> NoReturn:
        if "are required" in message:  # a value of the mistyped option may have been taken for one, or be missing
            message += self._meant(self._words)
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
    except (ValueError, OSError, ImportError, RuntimeError, *_library_errors()) as error:
        if debug:
            raise
        print(f"livecc: error: {describe(error)}", file=sys.stderr)
        return EXIT_ERROR


def _library_errors() -> tuple[type[Exception], ...]:
    """Return what broken connections to the Hub and weights that cannot be read or written raise."""
    names = {"httpx": "TransportError", "httpx2": "TransportError", "safetensors": "SafetensorError"}
    errors = (getattr(sys.modules.get(module), name, None) for module, name in names.items())
    return tuple(error for error in errors if error is not None)


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole program, with the arguments of `command` alone, so that help stays fast."""
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
    """Return an error as one line that says which file, if it was about one."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.filename}: {error.strerror}"
    else:
        message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + " ..."


if __name__ == "__main__":
    sys.exit(main())
