"""Optional dependencies: which are missing, and the command that installs them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_NAME = "livecc-hf"
# Modules installed by each extra of pyproject.toml; tests/utils/test_extras.py compares the two.
MODULES = {
    "train": ("trl", "peft", "datasets", "qwen_vl_utils", "tqdm", "langcodes"),
    "data": ("datasets", "gcld3", "faster_whisper", "onnxruntime", "httpx2", "matplotlib", "tqdm", "langcodes"),
    "ray": ("ray",),
    "serve": ("fastapi", "uvicorn", "websockets", "prometheus_client", "pydantic"),
    "demo": ("gradio", "spaces", "fastapi", "uvicorn", "websockets", "prometheus_client", "pydantic"),
    "evaluate": ("httpx2", "matplotlib", "pyarrow"),
    "fetch": ("yt_dlp", "langcodes"),
    "liger": ("liger_kernel",),
    "segment": ("icu4py",),
    "quantize": ("bitsandbytes",),
}


class MissingExtraError(ImportError):
    """A package of an extra is not installed; the message is one line with the install command."""


def require_extra(extra: str, what: str, *modules: str) -> None:
    """Check that packages of an extra are installed, without importing them.

    Args:
        extra: its name in `pyproject.toml`.
        what: what needs them, as the subject of a message such as `"livecc train needs trl: ..."`.
        modules: the modules needed; default: all of the extra.

    Raises:
        MissingExtraError: if any is missing; the message names all missing modules.
    """
    missing = [name for name in modules or MODULES[extra] if not _is_there(name)]
    if missing:
        raise MissingExtraError(f"{what} needs {', '.join(missing)}: {install_command(extra)}")


def install_command(*extras: str) -> str:
    """Return the command that adds extras to this installation.

    It names the place that this package was installed from, as recorded by pip: a folder, a URL or a package index.
    """
    names = ",".join(extras)
    origin = _origin()
    url = origin.get("url", "")
    if not origin:
        target = f"{_NAME}[{names}]"
    elif "dir_info" in origin or url.startswith("file:"):
        path = Path(unquote(urlsplit(url).path))
        if not path.exists():
            return f'pip install ".[{names}]", in a clone of {_NAME}'
        target = f"{path}[{names}]"
    else:
        vcs = origin.get("vcs_info", {}).get("vcs")
        target = f"{_NAME}[{names}] @ {vcs + '+' if vcs else ''}{url}"
    return f'{_pip()} install "{target}"'


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a missing parent package; a module without a spec
        return False


def _origin() -> dict[str, Any]:
    """Return where this package was installed from, as recorded by pip; empty for a package index."""
    # A build leaves PKG-INFO without METADATA in a clone, which is not an installation.
    installed = [found for found in distributions(name=_NAME) if found.read_text("METADATA") is not None]
    if not installed:  # a source tree that is not installed
        return {"url": (Path(__file__).parents[3]).as_uri(), "dir_info": {}}
    record = installed[0].read_text("direct_url.json")
    return {} if record is None else json.loads(record)


def _pip() -> str:
    """Return `pip`, or `PYTHON -m pip` if the shell finds no pip or another Python's."""
    found = shutil.which("pip")
    is_ours = found is not None and Path(found).parent.resolve() == Path(sys.executable).parent.resolve()
    return "pip" if is_ours else f"{sys.executable} -m pip"
