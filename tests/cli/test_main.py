"""The console script: help, errors, exit codes."""

import re
import subprocess
import sys
import types

import pytest

from livecc_hf import __version__
from livecc_hf.cli.exits import describe
from livecc_hf.cli.main import main


def run_cli(*argv, **options):
    """Run `livecc` in its own process."""
    command = [sys.executable, "-m", "livecc_hf.cli.main", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_and_version_load_nothing_heavy():
    code = """
import sys
from livecc_hf.cli.main import main
commands = ("commentate", "convert", "data", "merge")
asked = [["--version"], ["--help"], *([name, "--help"] for name in commands), ["data", "build", "--help"]]
for argv in asked:
    try:
        main(argv)
    except SystemExit as stop:
        assert stop.code == 0
heavy = {"torch", "transformers", "numpy", "pyarrow", "av", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"livecc-hf {__version__}\n")
    for word in ("commentate", "convert", "data", "merge", "train", "--realtime", "--position-scheme", "--stages"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["comment"], "livecc: error: argument COMMAND: invalid choice: 'comment'"),
        (["commentate"], "livecc commentate: error: the following arguments are required: VIDEO"),
        (["commentate", "x.mp4", "--format", "ass"], "argument --format: invalid choice: 'ass'"),
        (["commentate", "x.mp4", "--start", "1:75"], "'1:75' is not a time: expected seconds or hh:mm:ss"),
        (
            ["commentate", "x.mp4", "--max-gap", "0"],
            "argument --max-gap: '0' is no time at all: expected a time above 0",
        ),
        (["commentate", "x.mp4", "--stall-timeout", "0:00"], "argument --stall-timeout: '0:00' is no time at all"),
        (["commentate", "x.mp4", "--reconnects", "-1"], "--reconnects: '-1': expected a whole number, 0 or more"),
        (["rtsp://me:secret@host/x"], "invalid choice: 'rtsp://***@host/x'"),
        (["commentate", "x.mp4", "--url=rtsp://me:secret@host"], "unrecognized arguments: --url=rtsp://***@host"),
        (
            ["commentate", "x.mp4", "--query", "a\udcff"],
            r"argument --query: 'a\udcff' contains an incomplete character",
        ),
        (["commentate", "x.mp4", "--title", "\ud83d"], r"argument --title: '\ud83d' contains an incomplete character"),
        (
            ["convert", "a", "b", "--max-shard-size", "2"],
            "argument --max-shard-size: '2' is not a size: expected one such",
        ),
        (["merge", "a", "b", "--max-shard-size", "0GB"], "argument --max-shard-size: '0GB' is not a size"),
        (["convert", "only-one"], "livecc convert: error: the following arguments are required: OUT"),
    ],
)
def test_wrong_arguments_are_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["comentate", "x.mp4"],
            "livecc: error: argument COMMAND: .*; did you mean commentate\\? \\(see livecc --help",
        ),
        (
            ["commentate", "x.mp4", "--ouput", "y"],
            "did you mean --output for --ouput\\? \\(see livecc commentate --help",
        ),
        (["commentate", "x.mp4", "--max_new_tokens=5"], "did you mean --max-new-tokens for --max_new_tokens\\?"),
        (["commentate", "--modle", "x.mp4", "y.mp4"], "did you mean --model for --modle\\?"),
        (
            ["commentate", "--modle"],
            "required: VIDEO; did you mean --model for --modle\\? \\(see livecc commentate --help",
        ),
        (["serve", "--prot", "9"], "did you mean --port for --prot\\? \\(see livecc serve --help"),
        (["data", "biuld"], "livecc data: error: .*; did you mean build\\? \\(see livecc data --help"),
        (
            ["data", "build", "--restrat", "a=b"],
            "did you mean --restart for --restrat\\? \\(see livecc data build --help",
        ),
        (
            ["data", "push", "a", "b", "--publik"],
            "did you mean --public for --publik\\? \\(see livecc data push --help",
        ),
        (["--verison"], "did you mean --version for --verison\\? \\(see livecc --help"),
        (["commentate", "x.mp4", "--zzz"], "unrecognized arguments: --zzz \\(see livecc commentate --help"),
        (
            ["commentate", "x.mp4", "--qery=rtsp://me:secret@host"],
            "--qery=rtsp://\\*\\*\\*@host; did you mean --query for",
        ),
    ],
)
def test_mistyped_words_get_a_suggestion(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert "secret" not in error


def test_no_command_shows_help(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_an_unknown_file_is_one_line_and_debug_shows_the_traceback(tmp_path):
    result = run_cli("commentate", tmp_path / "none.mp4")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"livecc: error: no such file: {tmp_path / 'none.mp4'}\n"
    result = run_cli("commentate", tmp_path / "none.mp4", "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr
    assert "FileNotFoundError" in result.stderr


def test_train_hands_its_arguments_on(monkeypatch, tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: 1")
    monkeypatch.chdir(tmp_path)
    seen = []
    script = types.ModuleType("script")
    script.main = seen.append
    monkeypatch.setitem(sys.modules, "livecc_hf.training.script", script)
    assert main(["train", "--config", "recipe.yaml", "learning_rate=1e-3"]) == 0
    assert seen == [["--config", "recipe.yaml", "learning_rate=1e-3"]]


def test_convert_writes_a_folder(tmp_path, published_checkpoint, capsys):
    assert main(["convert", str(published_checkpoint), str(tmp_path / "out"), "--position-scheme", "mrope"]) == 0
    assert (tmp_path / "out" / "config.json").is_file()
    assert f"wrote {tmp_path / 'out'}" in capsys.readouterr().err


def test_convert_errors_are_one_line(tmp_path, published_checkpoint, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for argv, message in (
        ([str(published_checkpoint), str(tmp_path / "out")], "give --position-scheme mrope"),
        ([str(tmp_path / "none"), str(tmp_path / "out")], "does not exist"),
        ([str(published_checkpoint), str(tmp_path / "full"), "--position-scheme", "mrope"], "not an empty folder"),
    ):
        assert main(["convert", *argv]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_errors_are_described_in_one_line():
    assert describe(ValueError("first\n  second")) == "first second"
    assert describe(PermissionError(13, "Permission denied", "out.srt")) == "out.srt: Permission denied"
    assert describe(PermissionError(13, "Permission denied", "a\n\x1b[2Jb")) == "a [2Jb: Permission denied"
    assert describe(RuntimeError()) == "RuntimeError"
    assert len(describe(ValueError("x" * 5000))) < 1000
