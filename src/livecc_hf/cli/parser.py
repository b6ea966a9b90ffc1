"""What all commands have in common: how they are declared, and how wrong words are told."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar, overload

from livecc_hf.cli.exits import EXIT_ERROR
from livecc_hf.sources.spec import redact

_ALIKE = 0.7  # how like two words must be for one to be offered for the other, from 0 to 1
Found = TypeVar("Found")  # what takes the arguments found
_OVERRIDE = re.compile(r"[\w.:]+=")


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; a command's parser itself refuses what it does not know.

    Attributes:
        takes_overrides: whether `key=value` words may stand between the options too, which argparse accepts in one
            place only.
    """

    takes_overrides = False

    @overload
    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: None = None
    ) -> tuple[argparse.Namespace, list[str]]: ...

    @overload
    def parse_known_args(self, args: Iterable[str] | None, namespace: Found) -> tuple[Found, list[str]]: ...

    @overload
    def parse_known_args(self, *, namespace: Found) -> tuple[Found, list[str]]: ...

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, where nothing may be left: argparse would have the parser above a command speak of what is."""
        self._words = list(sys.argv[1:] if args is None else args)
        words = self._overrides_last(self._words) if self.takes_overrides else self._words
        known, left = super().parse_known_args(words, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._meant(left)}")
        return known, left

    def _overrides_last(self, words: Sequence[str]) -> list[str]:
        """Return the words with those that are no option's, and are like `key=value`, behind all others."""
        valued = {option for option, action in self._option_string_actions.items() if action.nargs != 0}
        is_moved = [
            bool(_OVERRIDE.match(word)) and before not in valued
            for before, word in zip(["", *words][: len(words)], words, strict=True)
        ]
        return [words[at] for at in sorted(range(len(words)), key=lambda at: is_moved[at])]

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
        """Print one line with the error, and exit."""
        if "are required" in message:  # a value of the mistyped option may have been taken for one, or be missing
            message += self._meant(self._words)
        if "://" in message:  # an argument in the wrong place may hold a password
            message = re.sub(r"[^\s'\"=]+://[^\s'\"]+", lambda address: redact(address[0]), message)
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_commands(
    parser: argparse.ArgumentParser,
    commands: Mapping[str, tuple[str, str]],
    kind: str = "task",
    declared: Container[str] | None = None,
) -> None:
    """Let a parser have commands, each in a module of its own.

    A module has `add_arguments(parser)`, which declares the command's arguments and may give its parser a longer
    `description`, and `run(args)`, which returns the exit code; or it has `TASKS`, commands in their turn, of which one
    must be named.

    Args:
        parser: of the program, or of a command with tasks.
        commands: by name what they do, in a few words, and their modules.
        kind: what the commands are called: ``command`` or ``task``.
        declared: the commands whose modules are imported, so that help on one is fast; default: all.
    """
    found = parser.add_subparsers(dest=kind, metavar=kind.upper(), required=kind == "task", parser_class=OneLineParser)
    for name, (summary, module_name) in commands.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        command = found.add_parser(name, help=summary, description=description, allow_abbrev=False)
        add_debug(command, default=argparse.SUPPRESS)  # a default would undo `livecc --debug COMMAND`
        if declared is not None and name not in declared:
            continue
        module = importlib.import_module(module_name)
        if hasattr(module, "TASKS"):
            add_commands(command, module.TASKS)
        else:
            command.set_defaults(run=module.run)
            module.add_arguments(command)


def add_debug(parser: argparse.ArgumentParser, default: bool | str) -> None:
    """Declare `--debug`, which every command takes before and after its name."""
    parser.add_argument("--debug", action="store_true", default=default, help="show the full traceback of an error")
