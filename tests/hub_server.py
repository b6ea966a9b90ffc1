"""A server on this machine that speaks the Hub's API for models, datasets and Spaces: make, upload, list, download."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

USER = "me"  # whom any token belongs to
READ_TOKEN = "hf_read"  # may not write
_API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?$")
_FILE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
_LFS = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")


@dataclass
class Answer:
    """What a request gets: a value as JSON, or bytes."""

    status: int = 200
    value: object = None
    headers: dict[str, str] = field(default_factory=dict)


class Repository:
    """A repository on the server.

    Attributes:
        made: what `create_repo` asked for, such as "visibility" and "sdk".
        refs: the newest commit of each branch and pull request.
        trees: each commit's files, by path.
        messages: the first line of each commit.
        history: the commits, oldest first.
        commits: how many files each commit brought.
        sent: the paths of all files that were sent, also again.
    """

    def __init__(self, made: dict):
        self.made = made
        self.trees: dict[str, dict[str, bytes]] = {"0" * 40: {}}
        self.refs = {"main": "0" * 40}
        self.messages: list[str] = []
        self.history: list[str] = []
        self.commits: list[int] = []
        self.sent: list[str] = []
        self.n_discussions = 0

    @property
    def visibility(self) -> str:
        return self.made.get("visibility", "public")

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the main branch."""
        return self.trees[self.refs["main"]]

    def commit_of(self, revision: str) -> str | None:
        """Return the commit that a branch or a commit's name stands for."""
        return self.refs.get(revision, revision if revision in self.trees else None)

    def open_pull_request(self) -> str:
        """Return the ref of a new pull request."""
        self.n_discussions += 1
        ref = f"refs/pr/{self.n_discussions}"
        self.refs[ref] = self.refs["main"]
        return ref

    def commit(self, files: dict[str, bytes], ref: str = "main", message: str = "") -> str:
        """Make these the files of a branch; return the commit."""
        oid = hashlib.sha1(repr((len(self.trees), ref, sorted(files))).encode()).hexdigest()
        self.trees[oid] = files
        self.refs[ref] = oid
        self.messages.append(message)
        self.history.append(oid)
        return oid


class Hub:
    """What is on the server.

    Attributes:
        url: where it is.
        repositories: by type and name, such as "models/me/livecc".
        objects: large files' contents, by SHA-256.
        large: bytes from which a file is sent as a large one (git LFS).
        refused: the commits of a repository, by number, that are refused, once each.
        breaks: called with method and path; where it returns true, the connection breaks off without an answer.
        requests: method and path of each request.
    """

    def __init__(self):
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.large = 1 << 40
        self.refused: set[int] = set()
        self.breaks: Callable[[str, str], bool] = lambda method, path: False
        self.requests: list[str] = []
        self._lock = threading.RLock()

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> Answer:
        """Return what a request gets."""
        path, _, query = path.partition("?")
        with self._lock:
            if path == "/api/repos/create":
                return self._create(json.loads(body), token)
            if path == "/api/validate-yaml":
                return Answer(value={"errors": [], "warnings": []})
            if path == "/api/whoami-v2":
                return Answer(value={"name": USER, "type": "user"}) if token else _refusal(401, "Invalid username")
            if path.startswith("/objects/"):
                self.objects[path.rpartition("/")[2]] = body
                return Answer()
            if found := _LFS.match(path):
                return self._large(found, json.loads(body), token)
            if found := _FILE.match(path):
                return self._file(found, token)
            if found := _API.match(path):
                return self._api(method, found, query, body, token)
        return _refusal(404, f"no such path: {path}")

    def _create(self, asked: dict, token: str | None) -> Answer:
        owner = asked.get("organization") or USER
        kind = asked.get("type", "model") + "s"
        name = f"{kind}/{owner}/{asked['name']}"
        if token is None:
            return _refusal(401, "Invalid username or password.")
        if owner != USER or token == READ_TOKEN:
            return _refusal(403, f"You don't have the rights to create a {kind[:-1]} under the namespace {owner}")
        status = 409 if name in self.repositories else 200
        self.repositories.setdefault(name, Repository(asked))
        prefix = "" if kind == "models" else f"{kind}/"
        return Answer(status, {"url": f"{self.url}/{prefix}{owner}/{asked['name']}", "error": "You already have it"})

    def _repository(self, kind: str | None, name: str, token: str | None) -> Repository | None:
        """Return a repository, if the token may see it."""
        repository = self.repositories.get(f"{kind or 'models'}/{name}")
        return None if repository is None or (repository.visibility == "private" and token is None) else repository

    def _api(self, method: str, found: re.Match, query: str, body: bytes, token: str | None) -> Answer:
        kind, name, rest = found.groups()
        repository = self._repository(kind, name, token)
        if repository is None:
            return _refusal(404, "Repository not found", "RepoNotFound")
        task, _, rest = (rest or "revision/main").partition("/")
        revision, _, inside = rest.partition("/")
        revision, inside = unquote(revision), unquote(inside)
        if task == "discussions":
            return self._discussion(repository, method, kind, name, rest)
        if task == "branch":
            repository.refs.setdefault(revision, repository.refs["main"])
            return Answer()
        commit = repository.commit_of(revision)
        if commit is None:
            return _refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = repository.trees[commit]
        if task == "revision":
            siblings = [{"rfilename": path} for path in files]
            private = repository.visibility == "private"
            return Answer(value={"id": name, "sha": commit, "private": private, "tags": [], "siblings": siblings})
        if task == "tree":
            return self._tree(files, inside, "recursive=true" in query.lower())
        if token is None or token == READ_TOKEN:
            return _refusal(403, "you have no write access to it")
        if task == "preupload":
            asked = [file | {"oid": self._oid(files.get(file["path"]))} for file in json.loads(body)["files"]]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= self.large else "regular",
                    "shouldIgnore": False,
                    "oid": file["oid"],
                }
                for file in asked
            ]
            return Answer(value={"files": modes})
        if task == "commit":
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            url = f"{self.url}/{name}"
            if "create_pr=1" not in query:
                return self._commit(repository, revision, lines, url)
            ref = repository.open_pull_request()
            answer = self._commit(repository, ref, lines, url)
            answer.value |= {"pullRequestUrl": f"{url}/discussions/{ref.rpartition('/')[2]}"}
            return answer
        return _refusal(404, f"no such task: {task}")

    def _tree(self, files: dict[str, bytes], folder: str, recursive: bool) -> Answer:
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in files if path.startswith(prefix)]
        if folder and not inside:
            return _refusal(404, f"{folder} does not exist", "EntryNotFound")
        listed = [path for path in inside if recursive or "/" not in path.removeprefix(prefix)]
        folders = {prefix + path.removeprefix(prefix).partition("/")[0] for path in inside if path not in listed}
        entries = [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        for path in listed:
            data = files[path]
            entries.append({"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)})
            if len(data) >= self.large:
                oid = hashlib.sha256(data).hexdigest()
                entries[-1]["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 134}
        return Answer(value=entries)

    def _file(self, found: re.Match, token: str | None) -> Answer:
        kind, name, revision, path = found.groups()
        repository = self._repository(kind, name, token)
        if repository is None:
            return _refusal(404, "Repository not found", "RepoNotFound")
        commit = repository.commit_of(unquote(revision))
        if commit is None:
            return _refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        data = repository.trees[commit].get(unquote(path))
        if data is None:
            return _refusal(404, f"{path} does not exist", "EntryNotFound") | {"X-Repo-Commit": commit}
        return Answer(value=data, headers={"X-Repo-Commit": commit, "ETag": f'"{self._oid(data)}"'})

    def _large(self, found: re.Match, asked: dict, token: str | None) -> Answer:
        if self._repository(*found.groups(), token) is None:
            return _refusal(404, "Repository not found", "RepoNotFound")
        objects = []
        for item in asked["objects"]:
            href = {"href": f"{self.url}/objects/{item['oid']}"}
            objects.append(item if item["oid"] in self.objects else item | {"actions": {"upload": href}})
        return Answer(value={"transfer": "basic", "objects": objects})

    def _commit(self, repository: Repository, ref: str, lines: list[dict], url: str) -> Answer:
        items = [(line["key"], line["value"]) for line in lines]
        sent = {v["path"]: base64.b64decode(v["content"]) for key, v in items if key == "file"}
        sent |= {v["path"]: self.objects[v["oid"]] for key, v in items if key == "lfsFile"}
        repository.sent += sent
        if len(repository.commits) in self.refused:
            self.refused.remove(len(repository.commits))
            return _refusal(403, "storage limit reached")
        repository.commits.append(len(sent))
        gone = {v["path"] for key, v in items if key == "deletedFile"}
        kept = {path: data for path, data in repository.trees[repository.refs[ref]].items() if path not in gone}
        oid = repository.commit(kept | sent, ref, items[0][1]["summary"])
        return Answer(value={"commitUrl": f"{url}/commit/{oid}", "commitOid": oid})

    def _discussion(self, repository: Repository, method: str, kind: str, name: str, rest: str) -> Answer:
        if method == "POST":
            return Answer(value={"num": int(repository.open_pull_request().rpartition("/")[2])})
        value = {
            "title": "a pull request",
            "author": {"name": USER},
            "num": int(rest),
            "status": "draft",
            "isPullRequest": True,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "events": [],
            "repo": {"type": kind[:-1], "name": name},
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": [],
        }
        return Answer(value=value)

    def _oid(self, data: bytes | None) -> str | None:
        if data is None:
            return None
        return hashlib.sha256(data).hexdigest() if len(data) >= self.large else _git_oid(data)


class _Refusal(Answer):
    def __or__(self, headers: dict[str, str]) -> Answer:
        self.headers |= headers
        return self


def _refusal(status: int, message: str, code: str = "") -> _Refusal:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return _Refusal(status, {"error": message}, headers)


def _git_oid(data: bytes) -> str:
    """Return what Git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty Hub on a free port."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self._body()
            hub.requests.append(f"{self.command} {self.path}")
            if hub.breaks(self.command, self.path):
                self.close_connection = True
                return
            token = self.headers.get("authorization", "").removeprefix("Bearer ") or None
            self._send(hub.answer(self.command, self.path, body, token))

        do_GET = do_HEAD = do_PUT = do_POST  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _send(self, answer: Answer) -> None:
            data = answer.value if isinstance(answer.value, bytes) else json.dumps(answer.value).encode()
            status, headers = answer.status, dict(answer.headers)
            wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
            if wanted and status == 200:
                first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                status, data = 206, data[first : last + 1]
            self.send_response(status)
            kind = "application/octet-stream" if isinstance(answer.value, bytes) else "application/json"
            headers |= {"Content-Type": kind, "Content-Length": str(len(data))}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        hub.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield hub
        httpd.shutdown()
