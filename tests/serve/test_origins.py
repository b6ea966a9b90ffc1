"""Which web pages may use a server, and who may reach it without a token."""

import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")
sys.path.insert(0, str(Path(__file__).parent))
from served import Client, serving
from websockets.exceptions import InvalidStatus

from livecc_hf.cli.main import main
from livecc_hf.serve.addresses import parse_origin
from livecc_hf.serve.settings import ServeSettings


def refusal(server, origin=None, host=None, **headers):
    """Return the body of the refusal of a WebSocket with these headers; `None` if it is accepted."""
    headers |= {"Origin": origin} if origin is not None else {}
    url = server.url if host is None else f"ws://{host}/v1/commentary"
    connection = socket.create_connection(("127.0.0.1", server.port), 10)  # whatever `Host` says
    try:
        with Client(url, additional_headers=headers, sock=connection):
            return None
    except InvalidStatus as error:
        assert error.response.status_code == 403
        return error.response.body.decode()


def http(server, path, method="GET", **headers):
    """Return status and headers of an HTTP response; `Host` may be given."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def test_pages_of_other_servers_are_refused(server):
    own = f"http://127.0.0.1:{server.port}"
    assert refusal(server) is None  # a program other than a browser
    assert refusal(server, own) is None
    refused = server.service.metrics.refusals.labels("origin")._value
    before = refused.get()
    others = ["http://evil.example", f"http://evil.example:{server.port}", f"http://127.0.0.1:{server.port + 1}"]
    others += ["null", "file://", "", f"http://127.0.0.1:{server.port}.evil.example", own.upper() + "/x", "http://[::1"]
    for origin in others:
        said = refusal(server, origin)
        assert said.startswith(f"pages of {origin!r} may not use this server"), origin
        assert "--allowed-origins" in said and len(said.splitlines()) == 1
        assert http(server, "/metrics", Origin=origin)[0] == 403
        assert http(server, "/health", Origin=origin)[0] == 403
    assert refused.get() - before == 3 * len(others)
    assert http(server, "/health", Origin=own)[0] == http(server, "/metrics", Origin=own)[0] == 200
    assert http(server, "/health")[0] == 200


def test_listed_pages_are_served_and_may_read_answers(model, processor):
    listed = ["https://example.com", "http://localhost:3000/", "HTTP://Other.Example:80"]
    with serving(model, processor, allowed_origins=listed) as server:
        for origin in ("https://example.com", "http://localhost:3000", "http://other.example"):
            assert refusal(server, origin) is None
            status, headers = http(server, "/health", Origin=origin)
            assert (status, headers["Access-Control-Allow-Origin"]) == (200, origin)
        asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
        assert http(server, "/metrics", "OPTIONS", Origin="https://example.com", **asked)[0] == 200
        for origin in ("http://example.com", "https://example.com:8443", "https://www.example.com"):
            assert refusal(server, origin) is not None
        assert http(server, "/health")[1]["Access-Control-Allow-Origin"] is None
    with serving(model, processor, allowed_origins=["*"]) as server:
        assert refusal(server, "http://anything.example", host="any.example") is None


def test_behind_a_proxy_the_requested_name_is_the_origin(model, processor):
    """As in docs/serving.md: the proxy passes `Host`, or its address is listed."""
    with serving(model, processor, token="t") as server:
        token = {"Authorization": "Bearer t"}
        name, page = "livecc.example.com", "https://livecc.example.com"
        assert refusal(server, page, host=name, **token) is None  # TLS ends at the proxy, without X-Forwarded-Proto
        assert refusal(server, page, host=name, **token, **{"X-Forwarded-Proto": "https"}) is None
        weak = refusal(server, "http://livecc.example.com", host=name, **token, **{"X-Forwarded-Proto": "https"})
        assert "may not use this server" in weak
        assert refusal(server, page, **token) is not None  # the proxy does not pass `Host`
        assert refusal(server, "https://evil.example", host=name, **token) is not None
    with serving(model, processor, allowed_origins=["https://livecc.example.com"]) as server:
        assert refusal(server, page) is None
        assert refusal(server, page, host=name) is None


def test_dns_rebinding_is_refused(server):
    """DNS rebinding: a page's own name resolves to this machine, and there is no token."""
    said = refusal(server, f"http://evil.example:{server.port}", host=f"evil.example:{server.port}")
    assert said.startswith("this server does not answer to the name 'evil.example:")
    assert http(server, "/metrics", Host="evil.example")[0] == 403
    for host in ("localhost", "LOCALHOST.", "app.localhost", "127.0.0.1", "[::1]", "192.168.0.7"):
        at = f"{host}:{server.port}"
        assert refusal(server, f"http://{at}", host=at) is None, host
        assert http(server, "/health", Host=at)[0] == 200


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://example.com", "https://example.com"),
        ("https://Example.com:443/", "https://example.com"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://localhost:80", "http://localhost"),
    ],
)
def test_origins_are_read_as_browsers_write_them(text, origin):
    assert str(parse_origin(text)) == origin
    assert ServeSettings(allowed_origins=[text]).allowed_origins == (origin,)


@pytest.mark.parametrize(
    "text", ["example.com", "null", "ws://example.com", "https://example.com/page", "https://a@b", "https://*.a.b:x"]
)
def test_invalid_origins_are_refused(text, capsys):
    with pytest.raises(ValueError, match="expected a page's scheme, host and port"):
        ServeSettings(allowed_origins=["https://example.com", text])
    assert main(["serve", "--allowed-origins", text]) == 2
    assert capsys.readouterr().err.startswith(f"livecc: error: origin {text!r}: expected a page's scheme")


def test_allowed_origins_must_be_a_list():
    with pytest.raises(ValueError, match="expected a list"):
        ServeSettings(allowed_origins="https://example.com")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_serving_a_network_without_a_token_is_refused(host, capsys, monkeypatch):
    monkeypatch.delenv("LIVECC_SERVE_TOKEN", raising=False)
    assert main(["serve", "--host", host, "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"livecc: error: --host {host} without a token") and "give --insecure" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("secured_by", ["--insecure", "token", "loopback"])
def test_a_network_is_served_with_a_token_or_insecure_or_on_loopback(secured_by, capsys, monkeypatch):
    """Without the refusal, the next error comes: an unknown model."""
    arguments = ["--host", "127.0.0.2" if secured_by == "loopback" else "0.0.0.0", "--port", "0", "--model", "/none"]
    if secured_by == "token":
        monkeypatch.setenv("LIVECC_SERVE_TOKEN", "t")
    assert main(["serve", *arguments, *(["--insecure"] if secured_by == "--insecure" else [])]) == 2
    assert "/none" in capsys.readouterr().err
    if secured_by == "token":
        assert main(["serve", *arguments, "--insecure"]) == 2
        assert "--insecure is given, but there is a token" in capsys.readouterr().err
