"""Parser of all commands: declares them in modules, and reports errors in one line."""

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

_ALIKE = 0.7  # minimum similarity of a suggested word, from 0 to 1
Found = TypeVar("Found")  # type of the namespace
_OVERRIDE = re.compile(r"[\w.:]+=")


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports errors in one line, with suggestions for mistyped words.

    Attributes:
        takes_overrides: whether `key=value` arguments may be mixed with options; argparse only accepts them in one
            place.
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
        """Parse all arguments; an unknown one is an error of this parser, not of the program's as in argparse."""
        self._words = list(sys.argv[1:] if args is None else args)
        words = self._overrides_last(self._words) if self.takes_overrides else self._words
        known, left = super().parse_known_args(words, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._suggestion(left)}")
        return known, left

    def _overrides_last(self, words: Sequence[str]) -> list[str]:
        """Return the words with all `key=value` arguments, except values of options, moved to the end."""
        valued = {option for option, action in self._option_string_actions.items() if action.nargs != 0}
        is_moved = [
            bool(_OVERRIDE.match(word)) and before not in valued
            for before, word in zip(["", *words][: len(words)], words, strict=True)
        ]
        return [words[at] for at in sorted(range(len(words)), key=lambda at: is_moved[at])]

    def _suggestion(self, words: Sequence[str]) -> str:
        """Return a suggestion for the first word that is similar to an option; "" if there is none."""
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
        """Print the error in one line, and exit with code 2."""
        if "are required" in message:  # a mistyped option may have used up the missing argument
            message += self._suggestion(self._words)
        if "://" in message:  # a misplaced URL may contain a password
            message = re.sub(r"[^\s'\"=]+://[^\s'\"]+", lambda address: redact(address[0]), message)
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_commands(
    parser: argparse.ArgumentParser,
    commands: Mapping[str, tuple[str, str]],
    kind: str = "task",
    declared: Container[str] | None = None,
) -> None:
    """Add commands to a parser, each from its own module.

    A module has either `add_arguments(parser)`, which declares the arguments and may set a longer `description`, and
    `run(args)`, which returns the exit code; or `TASKS`, a mapping of subcommands like `commands`, of which one is
    required.

    Args:
        parser: the parser of the program, or of a command with tasks.
        commands: name: (summary, module).
        kind: what the commands are called: ``command`` or ``task``.
        declared: the commands whose modules are imported, so that help is fast; default: all.
    """
    found = parser.add_subparsers(dest=kind, metavar=kind.upper(), required=kind == "task", parser_class=OneLineParser)
    for name, (summary, module_name) in commands.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        command = found.add_parser(name, help=summary, description=description, allow_abbrev=False)
        add_debug(command, default=argparse.SUPPRESS)  # a default would override `livecc --debug COMMAND`
        if declared is not None and name not in declared:
            continue
        module = importlib.import_module(module_name)
        if hasattr(module, "TASKS"):
            add_commands(command, module.TASKS)
        else:
            command.set_defaults(run=module.run)
            module.add_arguments(command)


def add_debug(parser: argparse.ArgumentParser, default: bool | str) -> None:
    """Declare `--debug`, which is accepted before and after a command's name."""
    parser.add_argument("--debug", action="store_true", default=default, help="show the full traceback of an error")
