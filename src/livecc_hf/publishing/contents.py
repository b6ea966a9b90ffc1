"""Detects the kind of a folder (model, adapter, Space, generation code), and selects the files to publish."""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.cards import CARD_FILE
from .code_files import find_code_files
from .hub import PushError

MODEL, ADAPTER, SPACE, GENERATE = "model", "adapter", "space", "generation code"
_ALWAYS = (CARD_FILE, "LICENSE*", "NOTICE*", ".eval_results/*.yaml")
_PROCESSOR = (
    *("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("tokenizer.model", "chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja"),
)
_MODEL_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model-*-of-*.safetensors")
_ALLOWED = {
    MODEL: (*_ALWAYS, *_PROCESSOR, *_MODEL_WEIGHTS, "config.json", "generation_config.json"),
    ADAPTER: (*_ALWAYS, *_PROCESSOR, *_ADAPTER_WEIGHTS, "adapter_config.json", "config.json"),
    SPACE: (
        *(CARD_FILE, "LICENSE*", "NOTICE*", "requirements.txt", "pre-requirements.txt", "packages.txt", "Dockerfile"),
        *("*.py", "*.html", "*.css", "*.js", "*.mjs", "*.svg", "*.png", "*.jpg", "*.webp", "*.woff2", "*.mp4"),
        *("*.vtt", "*.webmanifest"),
    ),
    GENERATE: (CARD_FILE, "LICENSE*", "NOTICE*", "custom_generate/*.py", "custom_generate/requirements.txt"),
}
# Files of an earlier push of the same kind that would be loaded together with the new ones, or instead of them.
STALE = {MODEL: _MODEL_WEIGHTS, ADAPTER: _ADAPTER_WEIGHTS, GENERATE: ("custom_generate/*.py",)}
_MEDIA = (".mp4", ".webm", ".png", ".jpg", ".jpeg", ".gif", ".webp")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".distcp")
_RUN_STATE = ("trainer_state.json", "livecc_run.json", "skipped*.jsonl")


@dataclass(frozen=True)
class Contents:
    """The files of a folder to publish.

    Attributes:
        folder: the folder.
        kind: `MODEL`, `ADAPTER`, `SPACE` or `GENERATE`.
        files: size in bytes of each file to send, by its path in the folder.
        left_out: the reason why each other file is not sent, by its path.
        code: paths of the files with the model's code.
    """

    folder: Path
    kind: str
    files: dict[str, int]
    left_out: dict[str, str]
    code: frozenset[str] = frozenset()

    @property
    def repo_type(self) -> str:
        """Repository type on the Hub, "model" or "space"."""
        return "space" if self.kind == SPACE else "model"

    @property
    def n_bytes(self) -> int:
        """Total size of the files to send, in bytes."""
        return sum(self.files.values())

    @property
    def weights(self) -> list[str]:
        """Sorted paths of the safetensors files to send."""
        return sorted(name for name in self.files if name.endswith(".safetensors"))


def read_contents(folder: str | Path) -> Contents:
    """Detect the kind of a folder, and select the files to publish.

    Raises:
        PushError: if the folder is not of a kind that can be pushed.
    """
    folder = Path(folder).expanduser()
    kind = find_kind(folder)
    card = folder / CARD_FILE
    shown = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    code = find_code_files(folder) if kind in (MODEL, ADAPTER) else set()
    files, left_out = {}, {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith((".git/", ".cache/")):
            continue
        if not path.is_file():
            left_out[name] = "it is a broken link"
        elif name in code or is_allowed(kind, name) or (name.lower().endswith(_MEDIA) and _is_shown(name, shown)):
            files[name] = path.stat().st_size
        else:
            left_out[name] = _why_left_out(kind, name)
    return Contents(folder, kind, files, left_out, frozenset(code))


def is_allowed(kind: str, name: str) -> bool:
    """Return whether a file with this path is published; for a Space, name patterns also apply in subfolders."""
    if any(part.startswith((".", "__pycache__")) for part in name.split("/")) and not name.startswith(".eval_results/"):
        return False
    return any(
        fnmatch.fnmatchcase(name, pattern) and (kind == SPACE or name.count("/") == pattern.count("/"))
        for pattern in _ALLOWED[kind]
    )


def find_kind(folder: Path) -> str:
    """Return the kind of a folder.

    Raises:
        PushError: if the folder is not of a kind that can be pushed.
    """
    if not folder.is_dir():
        raise PushError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}: expected a model folder")
    if (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors")):
        if not any(folder.glob("adapter_model*.safetensors")):
            raise PushError(f"{folder} is an adapter without its weights, adapter_model.safetensors")
        return ADAPTER
    if (folder / "config.json").is_file():
        _check_model(folder)
        return MODEL
    if (folder / "custom_generate" / "generate.py").is_file():
        return GENERATE
    card = folder / CARD_FILE
    if card.is_file() and re.search(r"(?m)^sdk:", card.read_text("utf-8", errors="replace")):
        return SPACE
    raise PushError(_why_nothing(folder))


def _check_model(folder: Path) -> None:
    """Check that a folder with a `config.json` is a complete model of this package.

    Raises:
        PushError: if it is not.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PushError(f"{folder}/config.json cannot be read: {error}") from error
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "livecc":
        raise PushError(
            f"{folder} holds a model of type {kind!r} without LiveCC's code: `livecc convert {folder} OUT` makes a "
            "folder that can be pushed from a checkpoint of LiveCC or of a backbone"
        )
    if not any(folder.glob("model*.safetensors")):
        has_pickles = any(folder.glob("pytorch_model*.bin"))
        why = "its weights are pickles, which run code when they are loaded" if has_pickles else "it holds no weights"
        raise PushError(f"{folder} cannot be pushed: {why}; expected model.safetensors, as save_pretrained writes it")


def _why_nothing(folder: Path) -> str:
    if any(folder.glob("data/*.parquet")) or any(folder.glob("dataset/data/*.parquet")):
        return f"{folder} is a dataset, not a model: `livecc data push {folder} USER/NAME` publishes it"
    checkpoints = [path for path in folder.glob("checkpoint-*") if any(path.glob("*.safetensors"))]
    if checkpoints:
        newest = max(checkpoints, key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
        return f"{folder} holds checkpoints but no finished model: push a checkpoint, such as {newest}"
    return (
        f"{folder} cannot be pushed: expected config.json with model*.safetensors (a model), adapter_config.json (an "
        "adapter), README.md with sdk: (a Space) or custom_generate/generate.py (generation code)"
    )


def _is_shown(name: str, card: str) -> bool:
    """Return whether the card's text names a picture or clip; others may be private, such as a training folder's."""
    return re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w.-])", card.replace("./", "")) is not None


def _why_left_out(kind: str, name: str) -> str:
    base = name.rpartition("/")[2]
    if name.startswith("checkpoint-"):
        return "it belongs to a checkpoint"
    if name.endswith(_PICKLES):
        return "it is a pickle (optimizer state, arguments or weights): loading it runs code"
    if any(fnmatch.fnmatch(base, pattern) for pattern in _RUN_STATE):
        return "it is the state of a training run"
    if kind in (MODEL, ADAPTER) and name.startswith("custom_generate/"):
        return "it would replace the model's own generate: push it to a separate repository"
    if base.lower().endswith(_MEDIA):
        return "the card does not show it"
    if any(part.startswith(".") for part in name.split("/")):
        return "it is hidden"
    return f"it is not part of a {kind}"
