"""A server on this machine that speaks as much of the Hub's API as an upload of small files needs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """What is on the server.

    Attributes:
        url: where it is.
        files: the repository's, by path.
        commits: how many files each commit brought.
        sent: the paths of all files that were sent, also again.
        refused: the commits, by number, that are refused, once each.
        visibility: "private" or "public"; `None`: the repository was not made.
    """

    def __init__(self):
        self.url = ""
        self.files: dict[str, bytes] = {}
        self.commits: list[int] = []
        self.sent: list[str] = []
        self.refused: set[int] = set()
        self.visibility: str | None = None

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        """Return status and JSON for a request."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            status, self.visibility = (200, asked["visibility"]) if self.visibility is None else (409, self.visibility)
            return status, {"url": f"{self.url}/datasets/{asked.get('organization', 'me')}/{asked['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/api/datasets/me/clips/preupload/main"):
            files = json.loads(body)["files"]
            known = {name: _oid(data) for name, data in self.files.items()}
            return 200, {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "regular",
                        "shouldIgnore": False,
                        "oid": known.get(file["path"]),
                    }
                    for file in files
                ]
            }
        if path.startswith("/api/datasets/me/clips/commit/main"):
            return self._commit([json.loads(line) for line in body.splitlines() if line.strip()])
        if path.startswith("/api/datasets/me/clips"):
            return 200, {
                "id": "me/clips",
                "sha": self._head(),
                "private": self.visibility == "private",
                "tags": [],
                "siblings": [],
            }
        return 404, {"error": f"no such path: {path}"}

    def _commit(self, lines: list[dict]) -> tuple[int, object]:
        files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
        self.sent += files
        if len(self.commits) in self.refused:
            self.refused.remove(len(self.commits))
            return 403, {"error": "storage limit reached"}
        self.commits.append(len(files))
        self.files |= {path: base64.b64decode(content) for path, content in files.items()}
        return 200, {"commitUrl": f"{self.url}/datasets/me/clips/commit/{self._head()}", "commitOid": self._head()}

    def _head(self) -> str:
        return f"{len(self.commits):040x}"


def _oid(data: bytes) -> str:
    """Return what Git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty Hub on a free port."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            status, value = hub.answer(self.path, self.rfile.read(int(self.headers.get("content-length", 0))))
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        hub.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield hub
        httpd.shutdown()
