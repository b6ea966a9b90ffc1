"""The Dockerfile's steps, run in a clean folder: what it copies is enough, and what it starts serves."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def steps():
    """The Dockerfile's instructions, each as its name and the rest."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def copied(folder):
    for name, rest in steps():
        if name != "COPY":
            continue
        *sources, target = rest.split()
        for source in sources:
            where = folder / target
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / source, where, symlinks=True, ignore=ignore)
            else:
                shutil.copy(ROOT / source, where)
    return folder


def test_what_is_ignored_is_not_copied():
    ignored = set((ROOT / ".dockerignore").read_text().split())
    sources = {source for name, rest in steps() if name == "COPY" for source in rest.split()[:-1]}
    assert not sources & ignored
    assert sources >= {"pyproject.toml", "setup.py", "README.md", "LICENSE", "src", "modeling"}


@pytest.mark.skipif(shutil.which("useradd") is None or os.geteuid() != 0, reason="needs useradd, as root")
def test_the_user_that_it_runs_as_is_made_and_owns_the_models(tmp_path):
    """The step, with `/` moved into a folder."""
    [line] = [rest for name, rest in steps() if name == "RUN" and rest.startswith("useradd")]
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc" / name).touch()
    (tmp_path / "home").mkdir()
    moved = line.replace("useradd ", f"useradd --prefix {tmp_path} ").replace("/models", f"{tmp_path}/models")
    [user] = [rest for name, rest in steps() if name == "USER"]
    moved = moved.replace(f"chown {user} ", "chown 1000 ")  # whom only the folder knows by name
    subprocess.run(["sh", "-ec", moved], check=True, capture_output=True)
    [entry] = (tmp_path / "etc" / "passwd").read_text().splitlines()
    name, _, number, _, _, home, _ = entry.split(":")
    assert (name, number, home) == (user, "1000", f"/home/{user}") and (tmp_path / f"home/{user}").is_dir()
    assert (tmp_path / "models").stat().st_uid == 1000
    assert ("ENV", "HF_HOME=/models") in steps()


@pytest.mark.slow
def test_the_steps_make_a_server(tmp_path):
    pytest.importorskip("fastapi")
    context, site = tmp_path / "app", tmp_path / "site"
    context.mkdir()
    copied(context)
    [install] = [rest for name, rest in steps() if name == "RUN" and rest.startswith("pip install")]
    target = shlex.split(install)[-1]
    assert target == ".[serve]"
    # What it needs is here already, and nothing is fetched: the wheel alone is built as the step builds it.
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=context, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), site, "zip")
    [entry] = [json.loads(rest) for name, rest in steps() if name == "ENTRYPOINT"]
    assert entry[0] == "livecc"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(port) if word == "8000" else word for word in entry[1:]]
    env = os.environ | {"PYTHONPATH": str(site), "LIVECC_SERVE_TOKEN": "secret", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "livecc_hf.cli.main", *arguments]
        server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=file, stderr=file)
    try:
        end = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as answer:
                    assert json.load(answer)["status"] == "ready"
                    break
            except OSError:
                assert server.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.3)
    finally:
        server.terminate()
        server.wait(60)
