"""`livecc demo` as a user runs it, and servers whose model is still loading."""

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import OPTIONS, Client, Served, wait_for

import livecc_hf.pool.rounds
from livecc_hf.assets import demo_clip_path
from livecc_hf.cli.main import main
from livecc_hf.serve.server import listen, make_server
from livecc_hf.serve.service import CommentaryService
from livecc_hf.serve.settings import ServeSettings


def health_of(served):
    try:
        return json.loads(served.get("/health"))
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


def run_while_loading(load, check):
    service = CommentaryService(None, None, ServeSettings(), OPTIONS, load=load, name="some/model")
    listener = listen("127.0.0.1", 0)
    server = make_server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started, 60)
        check(Served(service, listener.getsockname()[1]))
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def refusal_of(served):
    client = Client(served.url, False)
    heard, code, reason = client.hear_all()
    return heard[0]["message"], code, reason


def test_the_page_is_served_while_the_model_loads(model, processor, frames):
    may_load = threading.Event()

    def load():
        assert may_load.wait(60)
        return model, processor

    def check(served):
        try:
            assert "<html" in served.get("/")
            assert json.loads(served.get("/v1/config"))["model"] == "some/model"
            assert health_of(served)["status"] == "starting"
            assert "livecc_ready 0.0" in served.get("/metrics")
            message, code, reason = refusal_of(served)
            assert "still loading" in message and code == 1012 and reason.startswith("loading: ")
        finally:
            may_load.set()
        wait_for(lambda: served.service.state == "ready", 60)
        with served.client() as client:
            assert len(client.watch(frames)) == 6

    run_while_loading(load, check)


def test_a_model_that_cannot_be_loaded_is_reported():
    def load():
        raise ValueError("no such model")

    def check(served):
        wait_for(lambda: served.service.state == "failed", 60)
        health = health_of(served)
        assert health["status"] == "failed" and "no such model" in health["reason"]
        message, code, reason = refusal_of(served)
        assert "the model could not be loaded (no such model)" in message and code == 1012
        assert reason.startswith("not_ready: ")

    run_while_loading(load, check)


@pytest.mark.parametrize("while_loading", [True, False])
def test_stopping_ends_the_warm_up_after_its_round(while_loading, model, processor, monkeypatch):
    has_begun, may_go_on = threading.Event(), threading.Event()
    starts, sizes = [], []
    generate = livecc_hf.pool.rounds.generate

    def wait():
        has_begun.set()
        assert may_go_on.wait(60)

    def load():
        if while_loading:
            wait()
        return model, processor

    def generates(model, requests):
        sizes.append(len(requests))
        wait()
        generate(model, requests)

    monkeypatch.setattr(livecc_hf.pool.rounds, "generate", generates)
    service = CommentaryService(None, None, ServeSettings(), OPTIONS, load=load, on_start=starts.append)
    server = make_server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listen("127.0.0.1", 0)]})
    thread.start()
    try:
        assert has_begun.wait(60)
        server.should_exit = True
        wait_for(lambda: service.state == "stopping")
        wait_for(lambda: while_loading or service.pool._is_closing)
    finally:
        may_go_on.set()
        thread.join(60)
    assert not thread.is_alive()
    assert sizes == ([] if while_loading else [1])
    assert starts == [None] and service.state == "stopping"


def test_a_missing_file_is_reported_in_one_line(capsys):
    for video, message in (
        ("no-such.mp4", "no such file: no-such.mp4"),
        ("file:///no-such.mp4", "no such file: file:///no-such.mp4"),
        ("ftp://host/a.mp4", "ftp://host/a.mp4: expected a video file that browsers play"),
    ):
        assert main(["demo", video, "--no-browser"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and message in said[0]


def test_a_device_that_is_not_there_is_reported_in_one_line(capsys):
    assert main(["demo", "--device", "gpu", "--no-browser"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "device 'gpu' cannot be used: expected cpu" in said.err


def test_an_invalid_model_name_is_reported_in_one_line(capsys):
    assert main(["demo", "--model", "nowhere", "--no-browser"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "model folder nowhere does not exist: expected a folder or a Hub id" in said[0]


@pytest.mark.slow
def test_a_model_that_does_not_load_is_reported_in_one_line_and_on_the_page(tmp_path):
    (tmp_path / "config.json").write_text("{")
    process = subprocess.Popen(
        [sys.executable, "-m", "livecc_hf.cli.main", "demo", "--model", str(tmp_path), "--no-browser", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = process.stdout.readline().split()[0]
        served = Served(None, int(url.rstrip("/").rpartition(":")[2]))
        wait_for(lambda: health_of(served)["status"] == "failed", 60)
        assert "config.json" in health_of(served)["reason"]
        said = process.stderr.readline()
    finally:
        process.terminate()
        _, more = process.communicate(timeout=60)
    assert "config.json" in said and more == ""


def test_the_command_opens_its_address_and_offers_livecc_tiny_and_a_file(tmp_path):
    shown, browser = tmp_path / "shown", tmp_path / "browser.py"  # like a text browser, it ends after the page was read
    browser.write_text(
        "import sys, urllib.request\n"
        f"with urllib.request.urlopen(sys.argv[1], timeout=60) as page, open({str(shown)!r}, 'wb') as file:\n"
        "    file.write(page.read())\n"
    )
    video = tmp_path / "own.webm"
    content = demo_clip_path().read_bytes()
    video.write_bytes(content)  # the suffix alone decides the content type
    process = subprocess.Popen(
        [sys.executable, "-m", "livecc_hf.cli.main", "demo", str(video), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "BROWSER": f"{sys.executable} {browser} %s"},
    )
    try:
        url = process.stdout.readline().split()[0]
        served = Served(None, int(url.rstrip("/").rpartition(":")[2]))
        assert url.startswith("http://127.0.0.1:")
        assert json.loads(served.get("/v1/config"))["model"] == "livecc-tiny"
        with urllib.request.urlopen(url, timeout=10) as page:
            assert page.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in page.headers["content-security-policy"]
        request = urllib.request.Request(f"{url}clip.mp4", headers={"Range": "bytes=2-4"})
        with urllib.request.urlopen(request, timeout=10) as part:
            assert (part.status, part.read(), part.headers["content-type"]) == (206, content[2:5], "video/webm")
        wait_for(lambda: shown.exists() and b"<html" in shown.read_bytes())
        process.terminate()
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
