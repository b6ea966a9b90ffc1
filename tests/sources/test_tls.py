"""TLS over loopback, with a self-signed certificate."""

import functools
import http.server
import shutil
import ssl
import subprocess
import threading

import pytest
from senders import recording

from livecc_hf.sources import SourceOpenError, open_source

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl's program is not installed")
QUICK = {"open_timeout_s": 6, "stall_s": 3}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a key and its self-signed certificate for 127.0.0.1."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    files = ["-keyout", path, "-out", path.with_name("c.pem"), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_name("c.pem").read_text())
    return path


@pytest.fixture
def url(certificate, tmp_path):
    """The address of a video on an HTTPS server."""
    (tmp_path / "a.ts").write_bytes(recording(20))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # clients that refuse the certificate
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"https://me:geheim@127.0.0.1:{server.server_port}/a.ts"
        server.shutdown()


def test_a_certificate_that_is_not_trusted_is_refused(url):
    """Otherwise the password could be sent to the wrong server."""
    with pytest.raises(SourceOpenError, match=r"certificate is not trusted \(self-signed.*--no-verify-tls") as error:
        list(open_source(url, **QUICK))
    assert "geheim" not in str(error.value)


def test_an_untrusted_certificate_is_accepted_on_request(url):
    assert [chunk.timestamps_s for chunk in open_source(url, verify_tls=False, **QUICK)] == [[0, 0.5], [1, 1.5]]


def test_a_certificate_that_the_system_trusts(url, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert [chunk.timestamps_s for chunk in open_source(url, **QUICK)] == [[0, 0.5], [1, 1.5]]
