"""The console script `livecc`: runs a command, and turns its errors into one line and an exit code.

Exit codes: 0: done; 1: some videos or rows failed (`data fetch`, `evaluate run`, `evaluate judge`); 2: an error; 130:
interrupted with Ctrl-C; 141: the reader of standard output has closed it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from livecc_hf import __version__
from livecc_hf.cli.exits import EXIT_BROKEN_PIPE, EXIT_ERROR, EXIT_INTERRUPTED, describe
from livecc_hf.cli.flags import with_flags
from livecc_hf.cli.parser import OneLineParser, add_commands, add_debug

# Name: (summary, module); see `add_commands`.
COMMANDS = {
    "ask": ("answer a question about a video or an image", "livecc_hf.cli.ask"),
    "commentate": ("comment on a video while it plays", "livecc_hf.cli.commentate"),
    "card": ("add a gallery and scores to a model card", "livecc_hf.cli.card"),
    "convert": ("turn a published checkpoint into a model folder with code", "livecc_hf.cli.convert"),
    "data": ("turn videos with captions or speech into a dataset", "livecc_hf.cli.data"),
    "demo": ("watch a model comment, in the browser", "livecc_hf.cli.demo"),
    "evaluate": ("score commentaries and answers on benchmarks", "livecc_hf.cli.evaluate"),
    "generate-repo": ("write code that lets stock models comment", "livecc_hf.cli.generate_repo"),
    "merge": ("merge an adapter and its base into one model folder", "livecc_hf.cli.merge"),
    "push": ("publish a model, an adapter or a Space on the Hub", "livecc_hf.cli.push"),
    "serve": ("serve commentary to clients that send frames over the network", "livecc_hf.cli.serve"),
    "space": ("write a Space in which a model comments", "livecc_hf.cli.space"),
    "train": ("fine-tune a model; arguments as in recipes/, see livecc train --help", "livecc_hf.cli.train"),
}


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
    args: argparse.Namespace | None = None
    try:
        if command == "train":  # the training script parses its own arguments
            argv.remove("train")
            rest = [word for word in argv if word != "--debug"]
            return importlib.import_module(COMMANDS[command][1]).run(rest)
        args = make_parser(command).parse_args(argv)
        if args.command is None:
            make_parser().print_help()
            return EXIT_ERROR
        return args.run(args)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of standard output has closed it. Redirect it, or the interpreter's flush at exit fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except _expected_errors() as error:
        if debug:
            raise
        print(f"livecc: error: {with_flags(describe(error), args)}", file=sys.stderr)
        return EXIT_ERROR


def _expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors that are shown as one line, including those of Hub connections and damaged weights."""
    names = {"httpx": "TransportError", "httpx2": "TransportError", "safetensors": "SafetensorError"}
    errors = (getattr(sys.modules.get(module), name, None) for module, name in names.items())
    return (ValueError, OSError, ImportError, RuntimeError, *(error for error in errors if error is not None))


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the program's parser; only the arguments of `command` are declared, so that help is fast."""
    parser = OneLineParser(prog="livecc", description="Live video commentary with LiveCC.", allow_abbrev=False)
    add_debug(parser, default=False)
    parser.add_argument("--version", action="version", version=f"livecc-hf {__version__}")
    add_commands(parser, COMMANDS, "command", declared=() if command is None else (command,))
    return parser


if __name__ == "__main__":
    sys.exit(main())
