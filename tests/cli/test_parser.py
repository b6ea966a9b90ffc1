"""Declaration of commands and tasks; their help imports nothing heavy."""

import importlib
import subprocess
import sys

import pytest

from livecc_hf.cli.main import COMMANDS, make_parser
from livecc_hf.cli.parser import OneLineParser

# `train` has its own parser.
MODULES = {(name,): module for name, (_, module) in COMMANDS.items() if name != "train"}
for group in ("data", "evaluate"):
    tasks = importlib.import_module(MODULES.pop((group,))).TASKS
    MODULES |= {(group, name): module for name, (_, module) in tasks.items()}


@pytest.mark.parametrize("words", MODULES, ids=" ".join)
def test_each_has_a_module_of_its_name(words):
    module = importlib.import_module(MODULES[words])
    assert module.__doc__.startswith(f"`livecc {' '.join(words)}`: ")
    assert MODULES[words] == "livecc_hf.cli." + ".".join(words).replace("-", "_")
    assert callable(module.run) and callable(module.add_arguments)


def test_help_of_each_loads_nothing_heavy():
    code = f"""
import sys
from livecc_hf.cli.main import main
for words in {[*MODULES, ("data",), ("evaluate",)]}:
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, words
heavy = {{"torch", "transformers", "numpy", "pyarrow", "av", "PIL", "gradio", "pydantic"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for words in MODULES:
        assert f"usage: livecc {' '.join(words)} " in result.stdout
    assert "After an interruption" in result.stdout  # a description of its own
    assert "Turn videos with captions or speech into a dataset." in result.stdout  # the summary


def test_overrides_may_stand_between_options():
    parse = make_parser("data").parse_args
    words = ["data", "build", "a=1", "--out", "x=y", "--restart", "b.c=2", "--limit", "3", "d:e=4"]
    args = parse(words)
    assert (args.overrides, args.out, args.limit, args.restart) == (["a=1", "b.c=2", "d:e=4"], "x=y", 3, True)
    assert parse(["data", "build"]).overrides == []


def test_a_new_option_with_a_value_needs_no_list():
    parser = OneLineParser()
    parser.takes_overrides = True
    parser.add_argument("--name", nargs="?")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(["a=1", "--name", "b=2", "c=3", "--all", "d=4"])
    assert (args.name, args.all, args.overrides) == ("b=2", True, ["a=1", "c=3", "d=4"])


def test_debug_is_taken_everywhere():
    for words in (["--debug", "data", "push", "a", "b"], ["data", "--debug", "push", "a", "b"]):
        assert make_parser("data").parse_args(words).debug
    assert make_parser("data").parse_args(["data", "push", "a", "b", "--debug"]).debug
    assert not make_parser("data").parse_args(["data", "push", "a", "b"]).debug
