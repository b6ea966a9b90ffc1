"""The application on a local Ray cluster with two replicas."""

import contextlib
import socket
import struct
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
serve = pytest.importorskip("ray.serve")
sys.path.insert(0, str(Path(__file__).parent))
import ray
import yaml
from served import OPTIONS, Client, Served, alone, some_frames, wait_for
from websockets.exceptions import InvalidStatus

ROOT = Path(__file__).parents[2]
HEADERS = {"additional_headers": {"Authorization": "Bearer t"}}
RECIPE = ROOT / "recipes" / "serve" / "ray.yaml"


def application(checkpoint, n_replicas):
    from livecc_hf.serve.ray_deployment import build

    names = ("do_sample", "max_new_tokens", "repetition_penalty", "max_pixels", "min_pixels", "vision_window_s")
    names += ("text_window", "text_sink")
    return build(
        {
            "model": str(checkpoint),
            "settings": {"max_sessions": 2, "max_lag_s": 120.0},
            "options": {name: getattr(OPTIONS, name) for name in names},
            "loading": {"position_scheme": "mrope"},
            "deployment": {
                "num_replicas": n_replicas,
                "ray_actor_options": {"num_cpus": 0.5, "runtime_env": {"env_vars": {"LIVECC_SERVE_TOKEN": "t"}}},
            },
        }
    )


@pytest.mark.slow
def test_each_connection_stays_on_its_replica(published_checkpoint, make_model, processor, monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_SERVE_LOG_TO_STDERR", "0")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    try:
        port = _free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(published_checkpoint, 2), name="livecc", route_prefix="/")
        server = Served(None, port)
        frames = some_frames(16)
        expected = alone(make_model("mrope"), processor, frames)
        clients = [_admitted(server) for _ in range(4)]  # 2 on each replica, which is the limit
        for n, frame in enumerate(frames[1:], 1):
            for client in clients:
                client.show(n / 2, frame)
        for client in clients:
            client.say({"type": "finish"})
            heard, code, _ = client.hear_all()
            assert [(m["start_s"], m["end_s"], m["text"]) for m in heard[:-1]] == expected and code == 1000
        clients = [_admitted(server) for _ in range(4)]
        with Client(server.url, False, **HEADERS) as fifth:
            assert fifth.hear_all()[1] == 1013
        for client in clients:  # they disconnect without closing
            client.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.connection.socket.close()
        for client in [_admitted(server) for _ in range(4)]:
            client.connection.close()
        with pytest.raises(InvalidStatus):
            Client(server.url)
        assert '"ready"' in server.get("/health")
        port = ray.nodes()[0]["MetricsExportPort"]
        wait_for(lambda: "ray_livecc_turns_total{" in Served(None, port).get("/metrics"), 40)
        assert "livecc_turns_total" in server.get("/metrics", HEADERS["additional_headers"])
    finally:
        serve.shutdown()
        ray.shutdown()


def _admitted(server):
    """Return an admitted client; it retries when refused, since the router may not know which replica is full."""
    end_s = time.monotonic() + 20
    while True:
        client = Client(server.url, False, **HEADERS)
        client.say({"type": "start"})
        answer = client.hear()
        if answer["type"] == "started":
            client.show(0, some_frames(1)[0])
            with contextlib.suppress(TimeoutError):
                answer = client.hear(1.0)
        if answer["type"] == "started":
            return client
        assert answer["code"] == "full" and time.monotonic() < end_s, answer
        time.sleep(0.1)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize(("token", "insecure"), [(None, False), ("t", True)])
def test_a_replica_requires_a_token_unless_insecure(token, insecure, published_checkpoint, monkeypatch):
    from livecc_hf.serve.ray_deployment import CommentaryDeployment

    monkeypatch.delenv("LIVECC_SERVE_TOKEN", raising=False)
    settings = {"token": token} if token else {}
    with pytest.raises(ValueError, match="set either LIVECC_SERVE_TOKEN on every node, or insecure: true"):
        CommentaryDeployment(str(published_checkpoint), settings, insecure=insecure)
    loading = {"position_scheme": "mrope"}
    CommentaryDeployment(str(published_checkpoint), settings, loading=loading, insecure=not insecure)


def test_the_recipe_builds_an_application():
    from livecc_hf.serve.ray_deployment import build

    recipe = yaml.safe_load(RECIPE.read_text())
    (application,) = recipe["applications"]
    assert application["import_path"] == "livecc_hf.serve.ray_deployment:build"
    built = build(application["args"])
    assert built._bound_deployment.name == "livecc"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"modell": "x"}, "unknown argument modell: expected some of model, settings"),
        ({"settings": {"sessions": 3}}, "unknown setting sessions: expected some of max_sessions"),
        ({"settings": {"max_sessions": 0}}, "max_sessions=0: expected a whole number above 0"),
    ],
)
def test_invalid_deployment_arguments_are_refused(args, message):
    from livecc_hf.serve.ray_deployment import build

    with pytest.raises(ValueError, match=message):
        build(args)
