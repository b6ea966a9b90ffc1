"""Downloads of small files: within limits, and only from allowed hosts."""

import http.server
import threading
import time

import pytest

from livecc_hf.data.media.web_files import MAX_REDIRECTS, WebFileError, fetch_file, is_public

HERE = ["127.0.0.1"]


class Handler(http.server.BaseHTTPRequestHandler):
    """Misbehaves in the way that the path asks for."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Length": str(len(body))} | headers).items():
            self.send_header(name.replace("Length", "Content-Length"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        name, _, rest = self.path[1:].partition("/")
        self.close_connection = True
        if name == "file":
            self.answer(200, self.path.encode())
        elif name == "again":  # redirects as often as the path says
            self.answer(302, Location=f"/again/{int(rest) - 1}" if int(rest) > 1 else "/file")
        elif name == "to":
            self.answer(301, Location=rest)
        elif name == "promise":
            self.answer(200, b"little", Length=rest)
        elif name == "endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(100_000))
        elif name == "drip":  # slowly sends headers or body
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if rest == "body" else b""))
            while True:
                self.wfile.write(b"X")
                time.sleep(0.05)
        elif name == "silent":
            time.sleep(5)
        else:
            self.answer(404)


@pytest.fixture(scope="module")
def server():
    """Yield the URL of a server that does not print the errors of clients that disconnect."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass

    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_is_fetched(server):
    assert fetch_file(f"{server}/file/a b%20ü.png?size=3&x=%2F", HERE) == b"/file/a%20b%20%C3%BC.png?size=3&x=%2F"
    assert fetch_file(f"{server}/file/a.png?name=a b?ü", HERE) == b"/file/a.png?name=a%20b?%C3%BC"


def test_redirects_are_limited(server):
    assert fetch_file(f"{server}/again/{MAX_REDIRECTS}", HERE) == b"/file"
    with pytest.raises(WebFileError, match=f"more than {MAX_REDIRECTS} redirects"):
        fetch_file(f"{server}/again/{MAX_REDIRECTS + 1}", HERE)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://localhost:1/", "localhost is not among the allowed hosts"),
        ("file:///etc/passwd", "begins with http"),
        ("ftp://127.0.0.1/x", "begins with http"),
        ("http://[::1/", "is not a valid URL"),
        ("http://127.0.0.1:port/", "is not a valid URL"),
    ],
)
def test_a_redirect_to_another_host_or_scheme_is_refused(server, target, message):
    with pytest.raises(WebFileError, match=message):
        fetch_file(f"{server}/to/{target}", HERE)


@pytest.mark.parametrize("path", ["endless", "promise/10001"])
def test_large_files_are_refused(server, path):
    started = time.monotonic()
    with pytest.raises(WebFileError, match="larger than 10,000 bytes"):
        fetch_file(f"{server}/{path}", HERE, max_bytes=10_000)
    assert time.monotonic() - started < 2


def test_a_truncated_file_is_refused(server):
    with pytest.raises(WebFileError, match="IncompleteRead|breaks off after 6 bytes"):
        fetch_file(f"{server}/promise/100", HERE)


@pytest.mark.parametrize("path", ["drip/headers", "drip/body", "silent"])
def test_slow_servers_hit_the_time_limit(server, path):
    started = time.monotonic()
    with pytest.raises(WebFileError, match=r"no complete response within 0\.4 s"):
        fetch_file(f"{server}/{path}", HERE, time_limit_s=0.4)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0.0.0.0", "10.0.0.1", "169.254.169.254"]
)
def test_private_addresses_are_not_contacted(host):
    with pytest.raises(
        WebFileError, match="is not a public address|Name or service not known|not supported|No address"
    ):
        fetch_file(f"http://{host}:9/x", True, time_limit_s=2)


def test_which_addresses_are_public():
    assert all(map(is_public, ("8.8.8.8", "2606:4700::1111", "64:ff9b::808:808")))
    private = ("127.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255")
    private += (
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "ff02::1",
    )
    assert not any(map(is_public, private))


def test_errors_do_not_contain_the_secrets_of_a_url(server):
    with pytest.raises(WebFileError) as caught:
        fetch_file(f"{server.replace('http://', 'http://me:secret@')}/none?token=secret", HERE)
    assert "404" in str(caught.value)
    assert "secret" not in str(caught.value)
