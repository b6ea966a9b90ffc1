"""Options of a stream are declared once; arguments, messages and documentation follow."""

import contextlib
import dataclasses
import importlib
import json
import subprocess
import sys

import pytest
from options_table import PAGE, table

from livecc_hf.cli.flags import flag_of
from livecc_hf.cli.main import make_parser
from livecc_hf.cli.stream_arguments import command_options, stream_options_of
from livecc_hf.modeling import StreamOptions, stream_options

VALUES = {"window": "reprefill", bool: True, int: 3, float: 1.0, str: "Say it."}


def test_each_is_an_argument_and_arrives():
    given = {}
    argv = ["commentate", "a.mp4"]
    for option in command_options():
        kind = stream_options.option_type(option)
        given[option.name] = VALUES.get(option.name, VALUES[kind])
        argv += [flag_of(option.name)] + ([] if kind is bool else [str(given[option.name])])
    arrived = stream_options_of(make_parser("commentate").parse_args(argv))
    assert arrived == given
    assert StreamOptions(**arrived) != StreamOptions()
    left_out = {option.name for option in dataclasses.fields(StreamOptions)} - set(given)
    assert left_out == {"output_logits", "do_resize"}  # for Python programs only
    assert stream_options_of(make_parser("commentate").parse_args(["commentate", "a.mp4"])) == {}
    assert stream_options_of(make_parser("serve").parse_args(["serve", "--greedy"])) == {"do_sample": False}


@pytest.fixture
def more_options(monkeypatch):
    """`StreamOptions` with one more option, declared in one line."""
    with contextlib.suppress(ImportError):
        importlib.import_module("livecc_hf.serve.messages")  # imported first, so that it has the real options
    new = stream_options._option(None, "how loud, at 100%", from_=0, up_to=2, by_client=(0.5, 1.5))
    more = dataclasses.make_dataclass("More", [("loudness", "float | None", new)], bases=(StreamOptions,), frozen=True)
    monkeypatch.setattr(stream_options, "StreamOptions", more)
    return more


def test_a_new_one_is_an_argument_of_commands(more_options, capsys):
    for command in ("commentate", "serve", "demo"):
        argv = [command, "a.mp4"] if command == "commentate" else [command]
        parser = make_parser(command)
        assert stream_options_of(parser.parse_args([*argv, "--loudness", "1.5"])) == {"loudness": 1.5}
        with pytest.raises(SystemExit):
            parser.parse_args([command, "--help"])
        assert "--loudness X how loud, at 100%" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match="loudness=3: expected a number at least 0 and at most 2"):
        more_options(loudness=3)


def test_a_new_one_is_what_a_server_lets_clients_choose(more_options):
    messages = pytest.importorskip("livecc_hf.serve.messages")
    client_options = messages.make_client_options(more_options)
    assert client_options.model_validate({"loudness": 1.5, "top_k": 3}).loudness == 1.5
    for wrong in (0, 2, "loud"):
        with pytest.raises(ValueError, match="loudness"):
            client_options.model_validate({"loudness": wrong})


def test_a_new_one_is_a_row_of_the_documentation(more_options):
    row = "| `loudness` | `--loudness` | | from 0 to 2 | 0.5 to 1.5 | how loud, at 100% |\n"
    assert table(more_options) == table() + row


def test_help_needs_no_model():
    code = (
        "import sys; from livecc_hf.cli.main import make_parser\n"
        "print(make_parser('serve').format_help(), make_parser('commentate')._subparsers is not None)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_clients_choose_within_bounds():
    messages = pytest.importorskip("livecc_hf.serve.messages")
    marked = {option.name for option in dataclasses.fields(StreamOptions) if option.metadata["by_client"]}
    assert set(messages.ClientOptions.model_fields) == marked
    for name, wrong in (("temperature", 0.001), ("top_k", 2**40), ("seed", -1), ("top_p", 0), ("window", "none")):
        start = json.dumps({"type": "start", "options": {name: wrong}})
        with pytest.raises(messages.ClientError, match=f"options.{name}"):
            messages.read_message(start)
    start = messages.read_message('{"type": "start", "options": {"temperature": 0.5, "do_sample": true}}')
    assert start.options.model_dump(exclude_none=True) == {"temperature": 0.5, "do_sample": True}


def test_the_page_holds_the_table():
    assert table() in PAGE.read_text(encoding="utf-8"), "python tests/options_table.py writes it into docs/"
