"""Writes the folder of a Space: card, requirements, `app.py`, and the parts of this package that it runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from livecc_hf.checkpoints.names import looks_like_hub_id
from livecc_hf.utils.output_folder import check_new_folder, new_folder
from livecc_hf.utils.text import one_line

PACKAGE = "livecc_hf"
_TEMPLATE = Path(__file__).parent / "template" / "app.py"
# Packages that a Space does not run.
_LEFT_OUT = ("cli", "evaluation", "examples", "production", "publishing", "recipes", "tiny", "training")
_GRADIO = "6.31.0"  # the tested version; installed by the card's sdk_version, so not in requirements.txt
_PYTHON = "3.12"


class SpaceError(ValueError):
    """A Space cannot be written; the message is one line and says what to do."""


def write_space(out: str | os.PathLike, model_id: str, title: str | None = None, check: bool = True) -> Path:
    """Write a Space's folder, for `livecc push`.

    The folder has a copy of the parts of this package that it runs, so the Space installs published packages only.

    Args:
        out: the folder to write; must not exist, or be empty.
        model_id: Hub id of a model or adapter that `load_model_and_processor` can load.
        title: title of the Space; default: the model's name and "live".
        check: ask the Hub whether the model is there, unless `HF_HUB_OFFLINE` is set.

    Returns:
        The folder.

    Raises:
        SpaceError: if `out` is not empty, `model_id` is not a Hub id, `title` is blank, the Hub has no such model or
            cannot be reached, or livecc-hf is not installed.
    """
    out = Path(out).expanduser()
    if title is not None and not one_line(title):
        raise SpaceError("--title is empty: give a title, or leave it out for the model's name")
    check_new_folder(out, SpaceError)
    _check_id(model_id)
    files = _files_on_hub(model_id) if check else ()
    requirements = _requirements(may_be_adapter=not files or "adapter_config.json" in files)
    card = _card(model_id, one_line(title or f"{model_id.split('/')[1]} live"))
    with new_folder(out, SpaceError) as folder:
        app = _TEMPLATE.read_text(encoding="utf-8").replace("@MODEL@", model_id)
        (folder / "app.py").write_text(app, encoding="utf-8")
        (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        _copy_package(folder / PACKAGE)
    return out


def _check_id(model_id: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not model_id:
        raise SpaceError("--model is empty: expected USER/NAME, such as chenjoya/LiveCC-7B-Instruct")
    if Path(model_id).exists():
        raise SpaceError(f"{model_id} is a folder, which a Space cannot reach: push it first, and give its USER/NAME")
    try:
        validate_repo_id(model_id)
    except HFValidationError:
        is_id = False
    else:
        is_id = looks_like_hub_id(model_id)
    if not is_id:
        raise SpaceError(f"--model {model_id} is not a Hub id: expected USER/NAME, such as chenjoya/LiveCC-7B-Instruct")


def _files_on_hub(model_id: str) -> tuple[str, ...]:
    """Return the names of a model's files; empty if `HF_HUB_OFFLINE` is set."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return ()
    try:
        info = HfApi().model_info(model_id, timeout=20)
    except GatedRepoError:
        raise SpaceError(f"{model_id} is gated: ask for access on its page, and give the Space a token") from None
    except RepositoryNotFoundError:
        raise SpaceError(
            f"the Hub has no model {model_id} that you may read: correct --model, push it first (livecc push), or log "
            "in (hf auth login)"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = one_line(error, 160)
    except Exception as error:  # connection errors of the HTTP library
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore"):
            raise
        reason = one_line(error, 160)
    else:
        return tuple(file.rfilename for file in info.siblings or ())
    raise SpaceError(f"the Hub cannot be asked for {model_id} ({reason}): try again, or skip this with --no-check")


def _requirements(may_be_adapter: bool) -> list[str]:
    """Return the Space's requirements: those of this package and its `serve` extra, for adapters also peft."""
    try:
        declared = [Requirement(text) for text in importlib.metadata.requires("livecc-hf") or ()]
    except importlib.metadata.PackageNotFoundError:
        raise SpaceError("livecc-hf is not installed: install it (pip install .) to write a Space") from None
    wanted = ("", "serve") + (("train",) if may_be_adapter else ())
    found = {}
    for requirement in declared:
        extras = [
            extra for extra in wanted if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        ]
        if extras and (extras != ["train"] or requirement.name in ("peft", "transformers")):
            found[requirement.name] = _plain(requirement)  # the last: `train` needs a newer transformers
    return [*found.values(), "spaces>=0.51"]


def _plain(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _card(model_id: str, title: str) -> str:
    values = {
        "title": title,
        "emoji": "🎙️",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "gradio",
        "sdk_version": _GRADIO,
        "python_version": _PYTHON,
        "app_file": "app.py",
        "models": [model_id],
        "license": "apache-2.0",
        "short_description": "A model comments on video while it watches",
        "suggested_hardware": "t4-small",
        "tags": ["livecc", "video-commentary"],
    }
    header = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return f"""---
{header}---

# {title}

[{model_id}](https://huggingface.co/{model_id}) comments on a camera, a screen or a video file while it plays.

The page comments on live video if the Space has a dedicated GPU. On ZeroGPU, which lends a GPU for one call at a time,
only the endpoint for files works:

```python
from gradio_client import Client, handle_file

for turn in Client("USER/SPACE").submit(handle_file("match.mp4"), "Commentate this match.", api_name="/commentate"):
    print(turn)
```
"""


def _copy_package(target: Path) -> None:
    """Copy the parts of this package that the Space runs, with `modeling/` inside and links replaced by files."""
    packages = map(importlib.import_module, (PACKAGE, f"{PACKAGE}.modeling"))
    root, modeling = (Path(str(package.__file__)).parent for package in packages)

    def unneeded(folder: str, names: list[str]) -> set[str]:
        at_top = _LEFT_OUT if Path(folder) == root else ()
        return {
            name
            for name in names
            if name in at_top
            or name in ("__pycache__", "livecc-tiny", "templates")  # the Space bundles no model and writes no cards
            or name.endswith((".egg-info", ".typed", ".json"))
        }

    shutil.copytree(root, target, ignore=unneeded)
    if not (target / "modeling").exists():
        shutil.copytree(modeling, target / "modeling", ignore=shutil.ignore_patterns("__pycache__"))
