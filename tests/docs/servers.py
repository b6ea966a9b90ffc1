"""Servers on this machine that stand in for those of the world, started when a command first names one."""

import contextlib
import functools
import http.server
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from reader_folder import CHECKPOINT

TESTS = Path(__file__).parents[1]
for _folder in ("sources", "production", ""):
    sys.path.insert(0, str(TESTS / _folder))
_ON_AIR_S = 8.0


class Servers:
    """What stands in braces in `stand_ins`, by name; closed together.

    Attributes:
        addresses: of those that run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.addresses: dict[str, str] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()

    def filled_in(self, text: str) -> str:
        """Return the text with names in braces replaced by addresses; servers that it names are started."""
        return re.sub(rf"\{{({'|'.join(['ws', *_STARTERS])})\}}", lambda match: self._address(match[1]), text)

    def _address(self, name: str) -> str:
        if name not in self.addresses:
            self.addresses[name] = self._stack.enter_context(_STARTERS[name](self.folder))
        return self.addresses[name]


@contextlib.contextmanager
def _rtsp(folder: Path):
    """A camera."""
    from rtsp_server import RtspServer

    with RtspServer() as server:
        threading.Thread(target=_end_show, args=(server,), daemon=True).start()
        yield server.url()


def _end_show(server) -> None:
    """End it some seconds after somebody began to watch."""
    while not server.used:
        time.sleep(0.1)
    time.sleep(_ON_AIR_S)
    server.is_on_air = False


@contextlib.contextmanager
def _hub(folder: Path):
    from hub_server import serve_hub

    with serve_hub() as hub:
        yield hub.url


@contextlib.contextmanager
def _site(folder: Path):
    """A site with the reader's videos."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            """Say nothing of a client that has heard enough and goes."""

    with Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


@contextlib.contextmanager
def _language_model(folder: Path):
    """Not a server: a language model with random weights."""
    from models import write_language_model

    yield str(write_language_model(folder / "language-model", CHECKPOINT))


@contextlib.contextmanager
def _whisper(folder: Path):
    """Not a server: Whisper's smallest weights, where they are installed."""
    from real_weights import needs_whisper, whisper_folder

    if needs_whisper.args[0]:
        pytest.skip(needs_whisper.kwargs["reason"])
    yield whisper_folder()


@contextlib.contextmanager
def _judge(folder: Path):
    """An endpoint with a model that prefers the first text."""
    from chat_server import Reply, serve_chat

    with serve_chat(lambda *_: Reply("Commentary A is better aligned with the human commentary")) as server:
        yield server.url


_STARTERS: dict[str, Callable] = {
    "rtsp": _rtsp,
    "hub": _hub,
    "site": _site,
    "language_model": _language_model,
    "whisper": _whisper,
    "judge": _judge,
}
