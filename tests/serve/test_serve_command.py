"""`livecc serve` as a user runs it, and the example client."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import Client

from livecc_hf.assets import demo_clip_path
from livecc_hf.cli.main import main

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def running(*arguments, **environment):
    """Yield the process and its address once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "livecc_hf.cli.main", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"listening on (ws://\S+)", line):
                yield process, found[1]
                break
        else:
            raise AssertionError("".join(said))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_the_example_client_works_and_sigterm_stops_the_server(tmp_path):
    token_file = tmp_path / "token"
    token_file.write_text("a-token\n")
    with running("--token-file", str(token_file), "--max-messages-per-s", "200", "--greedy") as (process, url):
        done = watched("--url", url, "--speed", "8", LIVECC_SERVE_TOKEN="a-token")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[-1] == "closed: finished: all frames are commented on"
        assert sum(" s  " in line for line in lines) > 5
        assert any("square" in line or "circle" in line or "ball" in line for line in lines), done.stdout
        with Client(url, additional_headers={"Authorization": "Bearer a-token"}) as client:
            process.send_signal(signal.SIGTERM)
            heard, code, _ = client.hear_all()
            assert code == 1012 and heard[-1]["code"] == "stopping"
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


def watched(*arguments, **environment):
    command = [sys.executable, ROOT / "examples" / "watch_server.py", demo_clip_path(), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def test_the_example_client_reports_errors(model, processor):
    from served import serving

    with serving(model, processor, token="a-token") as server:
        done = watched("--url", server.url)
        assert done.returncode == 1 and done.stderr.startswith("refused: a token is needed")
    done = watched("--url", server.url)
    assert done.returncode == 1 and done.stderr.startswith(f"no server at {server.url}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_stops_the_server():
    with running() as (process, url), Client(url) as client:
        assert process.stderr.readline() == f"page: http{url.removeprefix('ws').removesuffix('v1/commentary')}\n"
        process.send_signal(signal.SIGINT)
        assert client.hear_all()[1] == 1012
        assert process.wait(20) == 130
        assert process.stderr.read().splitlines()[-1] == "interrupted"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-sessions", "0"], "--max-sessions 0: expected a whole number above 0"),
        (["--max-lag-s", "0.5"], "--max-lag-s 0.5: expected a number of seconds, at least 1"),
        (["--token-file", "/dev/null"], "the token is empty"),
        (["--token-file", "none.txt"], "--token-file none.txt cannot be read (No such file or directory)"),
        (["--token-file", sys.executable], "cannot be read (it is not UTF-8): expected a text file with the token"),
        (["--ssl-keyfile", "key.pem"], "--ssl-keyfile is given without --ssl-certfile"),
        (["--ssl-certfile", "/dev/null"], "certificate /dev/null cannot be used"),
        (["--max-connections-per-address", "0"], "--max-connections-per-address 0: expected a whole number above 0"),
        (["--port", "0", "--temperature", "0"], "--temperature 0.0: expected a number above 0"),
        (["--port", "0", "--device", "gpu"], "device 'gpu' cannot be used: expected cpu"),
        (["--port", "0", "--dtype", "int8"], "dtype 'int8' is unknown: expected float32, bfloat16 or float16"),
        (["--port", "99999"], "cannot listen on 127.0.0.1:99999 (ports are numbers from 0 to 65535)"),
        (["--port", "-5"], "cannot listen on 127.0.0.1:-5 (ports are numbers from 0 to 65535)"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:8000"),
    ],
)
def test_bad_arguments_are_reported_in_one_line(arguments, message, capsys):
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and message in said[0]


def test_a_model_that_cannot_be_loaded_ends_the_server_in_one_line(tmp_path, capsys):
    assert main(["serve", "--port", "0", "--model", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and str(tmp_path) in said[0]


def test_a_port_in_use_is_reported(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in capsys.readouterr().err
