"""Runs the commands of a shell block in a reader's folder."""

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from reader_folder import ROOT
from servers import Servers
from stand_ins import ENVIRONMENT, MADE_BY, SERVERS, TEXTS, options_for, reason_not_to_run, replaced

from livecc_hf.cli.main import main

_TIMEOUT_S = 300
_OPERATORS = {"|", "&&", ">", "<"}


@dataclass
class Shell:
    """A reader's terminal.

    Attributes:
        folder: where commands run.
        servers: what the names in braces of `stand_ins` are here, such as the address of a server.
        printed: what the commands wrote to standard output.
    """

    folder: Path
    servers: Servers
    printed: str = ""
    _started: list[subprocess.Popen] = field(default_factory=list)

    def __enter__(self):
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        for name, arguments in (("livecc", "-m livecc_hf.cli.main"), ("python", "")):
            (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
            (tools / name).chmod(0o755)
        return self

    def __exit__(self, *_):
        for server in self._started:
            server.send_signal(signal.SIGTERM)
            code = server.wait(timeout=60)
            server.stdout.close()
            assert code == 0, f"a server ended with {code}"

    def run(self, line: str) -> None:
        """Run a line; a command that fails fails the test.

        Raises:
            AssertionError: if it fails, shows a traceback, or does not write the file that it is told to.
        """
        if reason_not_to_run(line) is not None:
            for name in re.findall(r"(?:recipes|examples|docs)/[\w./-]+", line):
                assert (ROOT / name).exists(), f"{line}: there is no {name}"
            return
        words = [found for word in shlex.split(line, comments=True) for found in self._expanded(word)]
        command = " ".join(word if word in _OPERATORS else shlex.quote(word) for word in words)
        self._make_what_is_missing(command)
        command = self.servers.filled_in(replaced(f"{command} {options_for(command)}".strip(), TEXTS))
        words = shlex.split(command)
        if words[:2] == ["pip", "install"]:
            check_installable(words[2:])
        elif any(command.startswith(server) for server in SERVERS):
            self._start(command)
        elif words[0] == "livecc" and not _OPERATORS & set(words) and not _environment_for(command):
            self._livecc(words[1:])
        else:
            self._bash(command)
        for option in ("--output", "--overlay"):
            if option in words and "{" not in words[words.index(option) + 1]:
                assert (self.folder / words[words.index(option) + 1]).stat().st_size > 0

    def _expanded(self, word: str) -> list[str]:
        """The files that a pattern stands for, as a shell has it; any other word is itself."""
        found = sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(word)) if "*" in word else []
        return found or [word]

    def _make_what_is_missing(self, command: str) -> None:
        for path, maker in MADE_BY.items():
            if re.search(rf"{path}(/dataset)?(\s|$)", command) and not (self.folder / path).exists():
                self.run(maker)

    def _livecc(self, argv: list[str]) -> None:
        """In this process: importing PyTorch takes longer than most commands."""
        before = Path.cwd()
        out, err = io.StringIO(), io.StringIO()
        try:
            os.chdir(self.folder)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(argv)
        except SystemExit as stop:
            code = stop.code
        finally:
            os.chdir(before)
        self._check(f"livecc {shlex.join(argv)}", code, out.getvalue(), err.getvalue())

    def _bash(self, command: str) -> None:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self._environment(command),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
        self._check(command, done.returncode, done.stdout, done.stderr)

    def _check(self, command: str, code: int | None, out: str, err: str) -> None:
        said = f"{command}\nended with {code} and wrote\n{out[-2000:]}\n{err[-3000:]}"
        assert not code, said
        assert "Traceback" not in err, said
        self.printed += out

    def _start(self, command: str) -> None:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self._environment(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(server)
        pattern, said, deadline_s = SERVERS[" ".join(command.split()[:2])], "", time.monotonic() + _TIMEOUT_S
        for line in server.stdout:
            said += line
            if found := re.search(pattern, line):
                self.servers.addresses["ws"] = found[1]
                threading.Thread(target=server.stdout.read, daemon=True).start()
                return
            assert time.monotonic() < deadline_s, said
        raise AssertionError(f"{command}\nended and wrote\n{said}")

    def _environment(self, command: str) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return environment | {n: self.servers.filled_in(v) for n, v in _environment_for(command).items()}


def _environment_for(command: str) -> dict[str, str]:
    return next((given for start, given in ENVIRONMENT.items() if command.startswith(start)), {})


def check_installable(words: list[str]) -> None:
    """Check what a `pip install` asks of this project: that it is named as a clone's folder, with extras it has.

    Nothing is installed: there is no network. What is named otherwise must be among this project's dependencies.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {Requirement(text).name for group in (project["dependencies"], *extras.values()) for text in group} - {
        project["name"]
    }
    for word in words:
        if word.startswith("-"):
            continue
        name, _, asked = word.partition("[")
        asked = [extra.strip() for extra in asked.rstrip("]").split(",") if extra]
        if name != ".":
            assert name in known, f"pip install {word}: this project needs no {name}"
        assert set(asked) <= set(extras), f"pip install {word}: there are the extras {', '.join(extras)}"
