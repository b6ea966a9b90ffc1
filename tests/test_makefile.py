"""What `make` sets up, and with which Python; nothing is installed here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def make(*arguments, **environment):
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"} | environment
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=env, timeout=60)


def installed_by(target, tmp_path):
    done = make("-n", target, f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 0, done.stderr
    return re.findall(r'pip install .*--editable "(.+)"', done.stdout), done.stdout


def test_the_demo_installs_what_it_needs_and_says_how_much(tmp_path):
    targets, said = installed_by("demo", tmp_path)
    assert targets == ["."]
    assert "GB of packages are downloaded" in said
    assert said.rstrip().endswith("python examples/demo.py")


@pytest.mark.parametrize("target", ["test", "test-slow", "lint"])
def test_the_others_install_what_development_needs(target, tmp_path):
    assert installed_by(target, tmp_path)[0] == [".[dev]"]


def fake_python(folder, name, is_right):
    """A command that says it is a right Python, or a too old one; all else it is told is written down."""
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit {0 if is_right else 1}\necho "{name} $*" >&2\nexit 9\n')
    script.chmod(0o755)
    return script


def test_any_python_that_is_new_enough_serves(tmp_path):
    tools = tmp_path / "bin"
    for name, is_right in (("python3", False), ("python3.13", False), ("python3.12", True), ("python3.11", True)):
        fake_python(tools, name, is_right)
    done = make("demo", f"VENV={tmp_path / 'venv'}", PATH=f"{tools}:/usr/bin:/bin")
    assert f"python3.12 -m venv {tmp_path / 'venv'}" in done.stderr
    assert done.returncode != 0  # the made-up Python makes none


def test_a_python_may_be_named(tmp_path):
    fake_python(tmp_path / "bin", "python3", True)
    mine = fake_python(tmp_path / "mine", "snake", True)
    done = make("demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={mine}", PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert "snake -m venv" in done.stderr


@pytest.mark.parametrize("python", ["", "/no/such/python", "false"])
def test_an_unusable_python_is_reported_before_anything_is_made(python, tmp_path):
    done = make("demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}")
    assert done.returncode != 0
    assert "is not Python 3.11 or newer" in done.stderr
    assert "make PYTHON=/path/to/python3" in done.stderr
    assert "Setting up" not in done.stdout
    assert not (tmp_path / "venv").exists()
