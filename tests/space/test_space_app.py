"""A Space pushed to a local Hub and started from there: its page, endpoint and WebSocket."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio_client")
pytest.importorskip("gradio")
pytest.importorskip("spaces")

for _folder in (Path(__file__).parents[1], Path(__file__).parents[1] / "publishing"):
    sys.path.insert(0, str(_folder))
from hub_client import hub_environment, livecc
from hub_server import Repository, serve_hub

from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.cli.main import main

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

    def __init__(self, folder, log, environment):
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        own = {
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(folder.parent / "gradio"),
            "OMP_NUM_THREADS": "1",
        }
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "app.py"], cwd=folder, env=environment | own, stdout=file, stderr=file
            )

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
def hub():
    """A Hub with livecc-tiny as a private model."""
    with serve_hub() as hub:
        model = hub.repositories["models/me/tiny"] = Repository({"visibility": "private"})
        model.commit({path.name: path.read_bytes() for path in bundled_model_path().iterdir()})
        yield hub


_DOWNLOAD = "import sys, huggingface_hub as h; h.snapshot_download('me/live', repo_type='space', local_dir=sys.argv[1])"


@pytest.fixture(scope="module")
def folder(hub, tmp_path_factory):
    """A Space written by `livecc space`, pushed by `livecc push`, and downloaded."""
    place = tmp_path_factory.mktemp("spaces")
    for words in (("space", place / "written", "--model", "me/tiny"), ("push", place / "written", "me/live")):
        done = livecc(hub.url, place / "home", *words)
        assert done.returncode == 0, done.stderr
    copy = place / "copy"
    environment = hub_environment(hub.url, place / "home")
    subprocess.run([sys.executable, "-c", _DOWNLOAD, copy], env=environment, check=True, timeout=120)
    return copy


def test_the_pushed_space_has_the_metadata_for_the_hub(hub, folder):
    from huggingface_hub import RepoCard

    repository = hub.repositories["spaces/me/live"]
    assert (repository.made["sdk"], repository.visibility) == ("gradio", "private")
    said = RepoCard((folder / "README.md").read_text())
    values = said.data.to_dict()
    assert values["models"] == ["me/tiny"] and (folder / values["app_file"]).is_file()
    assert {"title", "sdk", "sdk_version", "python_version", "license", "suggested_hardware"} <= set(values)
    assert len(values["short_description"]) <= 60
    assert 'Client("me/live")' in said.text
    assert len((folder / "app.py").read_text().splitlines()) <= 60


@pytest.fixture(scope="module")
def space(hub, folder):
    """The downloaded Space; it loads the model that its card names from the Hub."""
    with Running(folder, folder.parent / "log", hub_environment(hub.url, folder.parent / "running")) as running:
        yield running


def _turns(url, video):
    from gradio_client import Client, handle_file

    job = Client(url, verbose=False, httpx_kwargs={"timeout": 120}).submit(
        handle_file(str(video)), "", api_name="/commentate"
    )
    job.result(timeout=120)
    return job.outputs()


def test_the_endpoint_equals_the_command_line(space, tmp_path):
    out = tmp_path / "said.jsonl"
    assert main(["commentate", str(demo_clip_path()), "--format", "jsonl", "--output", str(out), "--quiet"]) == 0
    said = [json.loads(line) for line in out.read_text().splitlines()]
    turns = _turns(space.url, demo_clip_path())
    assert sum(bool(turn["text"]) for turn in turns) > 5
    assert turns == [{name: turn[name] for name in ("start_s", "end_s", "text")} for turn in said]


def test_a_file_that_is_not_a_video_is_reported_by_its_name(space, tmp_path):
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(Exception, match="^notes.mp4 is not a video file that can be read"):
        _turns(space.url, tmp_path / "notes.mp4")


def test_the_live_server_answers_too(space):
    status, health = _get(f"{space.url}/health")
    assert (status, json.loads(health)["status"]) == (200, "ready")


def test_frames_are_answered_over_the_websocket(space):
    from websockets.sync.client import connect

    with connect(f"ws{space.url[4:]}/v1/commentary", subprotocols=["livecc.v1"], origin=space.url) as socket:
        socket.send(json.dumps({"type": "start"}))
        assert json.loads(socket.recv(timeout=60))["type"] == "started"


def test_the_page_equals_that_of_livecc_serve(space):
    from livecc_hf.serve.page_routes import PAGE_FOLDER

    assert _get(f"{space.url}/") == (200, (PAGE_FOLDER / "index.html").read_text())
    assert _get(f"{space.url}/main.js") == (200, (PAGE_FOLDER / "main.js").read_text())
    assert json.loads(_get(f"{space.url}/v1/config")[1])["model"] == "me/tiny"


def test_the_page_says_that_zero_gpu_cannot_be_live():
    """On ZeroGPU there is no live video, and the page gets the reason."""
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
