"""Loads a folder or repository in a separate process that cannot import this package and has an empty cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .hub import PushError

_PROBE = Path(__file__).with_name("probe.py")
_MAX_MESSAGE = 400


def load_fresh(
    source: str,
    kind: str,
    *,
    revision: str | None = None,
    full: bool = False,
    base: str | None = None,
    token: str | None = None,
) -> dict[str, str]:
    """Load a folder (without network) or a Hub repository in a separate process, and return facts about it.

    Args:
        source: folder or Hub id.
        kind: kind of the contents, as `Contents.kind`.
        revision: revision of the Hub repository.
        full: also load the weights and generate one turn.
        base: Hub id of an adapter's base model, for `full`.
        token: token for the Hub.

    Returns:
        "class", the loaded model class or function; for models and adapters also "processor" (its class) and "scheme"
        (the position scheme); with `full` also "said", the words of the turn.

    Raises:
        PushError: if the source does not load.
        OSError: if loading fails with an operating system error, such as a full disk.
    """
    request = {"source": source, "revision": revision, "kind": kind, "full": full, "base": base, "parent": os.getpid()}
    with tempfile.TemporaryDirectory(prefix="livecc-push-") as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONSAFEPATH": "1"}
        if not Path(source).is_dir():
            environment["HF_HUB_OFFLINE"] = "0"
            kept = ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
            environment |= {name: os.environ[name] for name in kept if name in os.environ}
            environment |= {"HF_TOKEN": token} if token else {}
        done = subprocess.run(
            [sys.executable, str(_PROBE), json.dumps(request)],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    try:
        facts = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        stderr = " ".join(done.stderr.split())[-_MAX_MESSAGE:]
        facts = {"error": f"the process ended with exit code {done.returncode}: {stderr}"}
    if "error" not in facts:
        return facts
    if facts.get("errno") is not None:  # such as a full disk
        raise OSError(facts["errno"], facts["error"][:_MAX_MESSAGE], home)
    name = source if revision is None else f"{source}@{revision}"
    raise PushError(f"{name} does not load without livecc-hf: {facts['error'][:_MAX_MESSAGE]}")
