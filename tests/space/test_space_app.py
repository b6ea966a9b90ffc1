"""A Space as it runs: `app.py` in a process of its own, asked by Gradio's client, beside what the command line says."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("gradio_client")
pytest.importorskip("gradio")
pytest.importorskip("spaces")

from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.cli.main import main
from livecc_hf.space.folder import write_space

_START_S = 240
pytestmark = pytest.mark.slow


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _get(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Running:
    """A Space in a process."""

    def __init__(self, folder, log, **environment):
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        env = os.environ | {
            "GRADIO_SERVER_PORT": str(port),
            "LIVECC_MODEL": str(bundled_model_path()),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "GRADIO_TEMP_DIR": str(folder.parent / "gradio"),
            **environment,
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=env, stdout=file, stderr=file)

    def __enter__(self):
        end = time.monotonic() + _START_S
        while True:
            try:
                if self.process.poll() is None and _get(f"{self.url}/gradio_api/info")[0] == 200:
                    return self
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise AssertionError(self._log.read_text())
            time.sleep(0.2)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_space(tmp_path_factory.mktemp("spaces") / "space", "me/tiny", check=False)


@pytest.fixture(scope="module")
def space(folder):
    with Running(folder, folder.parent / "log") as running:
        yield running


def _turns(url):
    from gradio_client import Client, handle_file

    job = Client(url, verbose=False, httpx_kwargs={"timeout": 120}).submit(
        handle_file(str(demo_clip_path())), "", api_name="/commentate"
    )
    job.result(timeout=120)
    return job.outputs()


def test_the_endpoint_says_what_the_command_line_says(space, tmp_path):
    out = tmp_path / "said.jsonl"
    assert main(["commentate", str(demo_clip_path()), "--format", "jsonl", "--output", str(out), "--quiet"]) == 0
    said = [json.loads(line) for line in out.read_text().splitlines()]
    turns = _turns(space.url)
    assert sum(bool(turn["text"]) for turn in turns) > 5
    assert turns == [{name: turn[name] for name in ("start_s", "end_s", "text")} for turn in said]


def test_the_live_server_answers_beside_it(space):
    status, health = _get(f"{space.url}/health")
    assert (status, json.loads(health)["status"]) == (200, "ready")


def test_frames_are_answered_over_the_websocket(space):
    from websockets.sync.client import connect

    with connect(f"ws{space.url[4:]}/v1/commentary", subprotocols=["livecc.v1"], origin=space.url) as socket:
        socket.send(json.dumps({"type": "start"}))
        assert json.loads(socket.recv(timeout=60))["type"] == "started"


def test_the_page_is_that_of_livecc_serve(space):
    from livecc_hf.serve.page_routes import PAGE_FOLDER

    assert _get(f"{space.url}/") == (200, (PAGE_FOLDER / "index.html").read_text())
    assert _get(f"{space.url}/main.js") == (200, (PAGE_FOLDER / "main.js").read_text())
    assert "livecc-tiny" in json.loads(_get(f"{space.url}/v1/config")[1])["model"]


def test_a_borrowed_gpu_is_said_on_the_page():
    """On ZeroGPU nothing is live, and the page is told why."""
    import gradio
    from starlette.testclient import TestClient

    from livecc_hf import load_model_and_processor
    from livecc_hf.space import serving

    model, processor, _ = load_model_and_processor(bundled_model_path(), device="cpu")
    server = gradio.Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPACES_ZERO_GPU", "true")
        serving.add_live_page(server, model, processor)
    client = TestClient(server)
    assert client.get("/").text.startswith("<!doctype html>")
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "failed")
    assert "ZeroGPU" in health.json()["reason"]
