"""The health of a server, and what its clients are told when the model fails."""

import json
import sys
import threading
import time
import urllib.error
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import OPTIONS, Client, serving, wait_for

import livecc_hf.pool.rounds
from livecc_hf.serve.service import CommentaryService
from livecc_hf.serve.settings import ServeSettings


def health(server):
    try:
        return 200, json.loads(server.get("/health"))
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def show_a_turn(client, frames, first=0):
    for n in range(first, 6):
        client.show(n / 2, frames[n])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_pool_thread_is_reported_everywhere(model, processor, frames, monkeypatch):
    class Panic(BaseException):
        """A BaseException, such as panics of Rust libraries."""

    def panics(*args):
        raise Panic("at line 7")

    with serving(model, processor) as server, server.client() as first, server.client() as second:
        monkeypatch.setattr(first.show_a_first(frames[0], server)._stream, "end_turn", panics)
        second.show_a_first(frames[0], server)
        show_a_turn(first, frames, 1)
        for client in (first, second):
            heard, code, _ = client.hear_all()
            assert code == 1011
            assert [m["code"] for m in heard] == ["generation_failed"] and heard[0]["is_final"]
            assert "the thread that runs the rounds has died (Panic: at line 7)" in heard[0]["message"]
        status, told = health(server)
        assert status == 503 and told["status"] == "failed" and "Panic: at line 7" in told["reason"]
        assert server.metric("livecc_ready") == 0
        heard, code, _ = Client(server.url, False).hear_all()
        assert (heard[0]["code"], code) == ("not_ready", 1012) and "Panic" in heard[0]["message"]


def test_a_hanging_round_is_reported_everywhere(model, processor, frames, monkeypatch):
    monkeypatch.setattr("livecc_hf.serve.app._WATCH_EVERY_S", 0.05)
    go_on = threading.Event()
    try:
        with serving(model, processor, max_round_s=0.4) as server, server.client() as client:
            sampler = client.show_a_first(frames[0], server)._stream._sampler
            sampler.processors.append(lambda token_ids, scores: scores if go_on.wait(20) else None)
            show_a_turn(client, frames, 1)
            heard, code, _ = client.hear_all()
            assert ([m["code"] for m in heard], code) == (["generation_failed"], 1011)
            assert "the model has been silent for" in heard[0]["message"]
            status, told = health(server)
            assert status == 503 and "silent" in told["reason"]
            heard, code, _ = Client(server.url, False).hear_all()
            assert (heard[0]["code"], code) == ("not_ready", 1012)
            go_on.set()
            wait_for(lambda: health(server)[0] == 200)
            with server.client() as other:
                show_a_turn(other, frames)
                assert other.hear()["type"] == "segment"
    finally:
        go_on.set()


def test_failures_in_a_row_are_reported_until_a_success(server, frames):
    for _ in range(3):
        assert health(server)[0] == 200
        with server.client() as client:
            client.show_a_first(frames[0], server)._stream._sampler.processors.append(lambda *args: 1 / 0)
            show_a_turn(client, frames, 1)
            assert client.hear_all()[1] == 1011
    status, told = health(server)
    assert status == 503
    assert told["reason"] == "the generation failed in 3 sessions in a row (ZeroDivisionError)"
    with server.client() as client:  # clients are still admitted, and a success resets the state
        show_a_turn(client, frames)
        assert client.hear()["type"] == "segment"
    assert health(server)[0] == 200


def test_errors_of_clients_do_not_affect_health(server, frames, monkeypatch):
    def is_full(*args):
        raise ValueError("it is full")

    for _ in range(4):
        with server.client() as client:
            stream = client.show_a_first(frames[0], server)._stream
            monkeypatch.setattr(stream, "begin_turn", lambda **keywords: is_full())
            show_a_turn(client, frames, 1)
            assert "it is full" in client.hear_all()[0][-1]["message"]
    assert health(server)[0] == 200


def test_the_warm_up_tries_the_largest_batch(model, processor, monkeypatch, caplog):
    sizes, generate = [], livecc_hf.pool.rounds.generate

    def no_memory_for_five(model, requests):
        sizes.append(len(requests))
        if len(requests) == 5:
            raise torch.OutOfMemoryError("no memory")
        generate(model, requests)

    monkeypatch.setattr(livecc_hf.pool.rounds, "generate", no_memory_for_five)
    for n_sessions, expected in ((3, [1, 2, 3]), (5, [1, 2, 4, 5])):
        sizes.clear()
        service = CommentaryService(model, processor, ServeSettings(max_sessions=n_sessions), OPTIONS)
        try:
            service.start()
        finally:
            service.stop()
        assert sorted(set(sizes)) == expected
        assert service.warm_up_streams == service.health()["warm_up_streams"] == n_sessions
        assert service.pool.stats.n_rounds == 0
        assert ("5 streams at once fail" in caplog.text) == (n_sessions == 5)


def test_the_warm_up_time_does_not_include_loading(model, processor):
    loaded_s = []

    def load():
        time.sleep(0.5)
        loaded_s.append(time.monotonic())
        return model, processor

    service = CommentaryService(None, None, ServeSettings(max_sessions=1), OPTIONS, load)
    try:
        service.start()
        assert 0 < service.warm_up_s <= time.monotonic() - loaded_s[0]
    finally:
        service.stop()


def test_a_model_that_cannot_generate_fails_at_the_start(model, processor, monkeypatch):
    def broken(*args):
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(livecc_hf.pool.rounds, "generate", broken)
    service = CommentaryService(model, processor, ServeSettings(), OPTIONS)
    try:
        with pytest.raises(RuntimeError, match="no kernel for this device"):
            service.start()
    finally:
        service.stop()
