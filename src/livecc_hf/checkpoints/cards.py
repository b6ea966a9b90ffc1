"""Writes the cards of models and adapters from a template, with known facts and the metadata of the source's card."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import huggingface_hub  # loads its names lazily

from ..utils.line_ends import line_end_of
from ..utils.text import one_line
from .card_sections import facts_table, find_section, read_facts_table, set_section

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
_CARD_BEFORE = "README-before.md"
_TEMPLATE = Path(__file__).with_name("templates") / "model_card.md"
_TRAINING = "\n## Training\n"
_TRAINING_SECTION = "training"
_TAGS = ("livecc", "video", "streaming", "live-commentary")
_TAKEN_OVER = ("license", "license_name", "license_link", "language", "datasets")


@dataclass(frozen=True)
class CardFacts:
    """The facts in a card.

    Attributes:
        title: heading of the card.
        summary: one or more sentences on what the model is and what it was made from.
        position_scheme: position scheme of the model.
        backbone: backbone of the model; `None` leaves it out.
        source: folder or Hub id of the model it was made from; `None` if it was trained from scratch.
        relation: relation to the source, `finetune` or `adapter`; `None` if it is the same model in another format.
        source_revision: revision of the source on the Hub.
        datasets: Hub ids of the training data, in addition to the source's.
        training: facts about the training run, by name.
        metadata: further metadata, such as `license`; overrides the source's.
        tags: further tags.
        is_complete: whether to leave out the list of missing facts.
    """

    title: str
    summary: str
    position_scheme: str
    backbone: str | None = None
    source: str | None = None
    relation: str | None = None
    source_revision: str | None = None
    datasets: Sequence[str] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    is_complete: bool = False


def build_card(facts: CardFacts) -> huggingface_hub.ModelCard:
    """Return the card of a model, or of an adapter if `relation` is `adapter`.

    Licence, languages and datasets are copied from the source's card, if it has a readable one.
    """
    is_adapter = facts.relation == "adapter"
    values = _from_source(facts) | dict(facts.metadata)
    datasets = [*_listed(values.pop("datasets", None)), *facts.datasets]
    tags = [*_TAGS, *(["lora"] if is_adapter else []), *facts.tags, *_listed(values.pop("tags", None))]
    data = huggingface_hub.ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="video-text-to-text",
        tags=[*dict.fromkeys(tags)],
        datasets=[*dict.fromkeys(datasets)] or None,
        **values,
    )
    text_values: dict[str, Any] = {
        "title": facts.title,
        "summary": facts.summary,
        "position_scheme": facts.position_scheme,
        "backbone": facts.backbone,
        "kind": "adapter" if is_adapter else "model",
        "base": _named(facts.source) if facts.source else None,
        "base_revision": facts.source_revision,
        "training": facts_table(facts.training) if facts.training else "",
        "missing": [] if facts.is_complete else _missing(data),
    }
    return huggingface_hub.ModelCard.from_template(data, template_path=str(_TEMPLATE), **text_values)


def write_card(folder: str | os.PathLike, facts: CardFacts) -> Path:
    """Write a folder's card, replacing an existing one, and return its path."""
    path = Path(folder) / CARD_FILE
    path.write_text(str(build_card(facts)), encoding="utf-8")
    return path


@contextlib.contextmanager
def preserve_card(folder: str | os.PathLike) -> Iterator[None]:
    """Restore a folder's existing card afterwards: PEFT's `save_pretrained` adds tags with the base's local path."""
    path = Path(folder) / CARD_FILE
    text = path.read_bytes() if path.is_file() else None
    yield
    if text is not None:
        path.write_bytes(text)


def parse_card(path: Path, error: type[Exception] = ValueError) -> huggingface_hub.RepoCard:
    """Read a card file.

    Args:
        path: the file.
        error: type of the exception to raise.

    Raises:
        ValueError: (or `error`) if the file is not UTF-8, or its metadata is not a YAML mapping.
        OSError: if the file cannot be read.
    """
    try:
        card = huggingface_hub.RepoCard(path.read_text(encoding="utf-8-sig"))  # Windows' editors write a mark
        if not isinstance(card.data.to_dict(), dict):
            raise ValueError("it is not a mapping")
    except UnicodeDecodeError as failure:
        raise error(f"{path} is not UTF-8 ({failure.reason} at byte {failure.start}): save it as UTF-8") from failure
    except OSError:
        raise
    except Exception as failure:  # YAML libraries raise errors of many types
        raise error(
            f"{path}: the metadata between the --- lines is not valid YAML: {one_line(failure, 200)}"
        ) from failure
    return card


def read_training(source: str, revision: str | None = None) -> dict[str, str]:
    """Return the facts about training in a model's card, by name; empty without a card of this package with such facts.

    Args:
        source: folder or Hub id of the model.
        revision: revision on the Hub; default: the newest.
    """
    _, _, rest = _card_text(source, revision).partition(_TRAINING)
    return read_facts_table(rest.partition("\n## ")[0])


def update_training(folder: str | os.PathLike, training: Mapping[str, Any]) -> None:
    """Replace the facts about training in a folder's card, if it has the section that this package writes.

    A card whose section has lost one of its comments is left unchanged, with a warning: saving must not fail over it.
    """
    path = Path(folder) / CARD_FILE
    encoding = {"encoding": "utf-8", "errors": "surrogateescape"}  # keeps the bytes of a card in another encoding
    text = path.read_text(**encoding)
    try:
        has_section = find_section(text, _TRAINING_SECTION) is not None
    except ValueError as error:
        logger.warning("%s does not get the facts of this run: %s", path, error)
        return
    if training and has_section:
        new = set_section(text, _TRAINING_SECTION, facts_table(training), "")
        path.write_text(new, newline=line_end_of(path), **encoding)


def set_aside_card(folder: str | os.PathLike) -> Path | None:
    """Rename a card that this package wrote for an earlier model in the folder, so that the next gets its own.

    `update_training` keeps everything in a card but the facts about training, such as the base model.

    Returns:
        The card's new path; `None` if there is no such card.
    """
    path = Path(folder) / CARD_FILE
    comment = f"<!-- livecc:{_TRAINING_SECTION} -->"
    if not path.is_file() or comment not in path.read_text(encoding="utf-8", errors="surrogateescape"):
        return None
    return path.replace(path.with_name(_CARD_BEFORE))


def short_name(source: str) -> str:
    """Return a Hub id unchanged, and a folder's name without its path, which is private."""
    return Path(source).expanduser().resolve().name if _is_folder(source) else source


def _named(source: str) -> str:
    return f"path/to/{short_name(source)}" if _is_folder(source) else source


def _is_folder(source: str) -> bool:
    return Path(source).expanduser().exists()


def _from_source(facts: CardFacts) -> dict[str, Any]:
    """Return the metadata copied from the source's card, and the metadata that names the source."""
    if facts.source is None:
        return {}
    theirs = read_head(facts.source, facts.source_revision)
    values = taken_over(theirs)
    if not _is_folder(facts.source):
        values["base_model"] = facts.source
    elif facts.relation != "adapter" and theirs.get("base_model"):  # an adapter fits only this folder, not its base
        values["base_model"] = theirs["base_model"]
    relation = facts.relation or (theirs.get("base_model_relation") if _is_folder(facts.source) else None)
    if relation and (values.get("base_model") or facts.relation == "adapter"):
        values["base_model_relation"] = relation
    return values


@lru_cache(maxsize=8)  # a training run reads it for each of its checkpoints
def _card_of_hub(source: str, revision: str | None) -> str:
    try:
        return Path(huggingface_hub.hf_hub_download(source, CARD_FILE, revision=revision)).read_text(encoding="utf-8")
    except Exception:  # no card, no access, no network: the new card is written without it
        return ""


def _card_text(source: str, revision: str | None) -> str:
    """Return the text of a model's card in a folder or on the Hub; empty if it cannot be read."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return _card_of_hub(source, revision)
    try:
        return (folder / CARD_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def read_head(source: str, revision: str | None = None) -> dict[str, Any]:
    """Return the metadata of a model's card; empty if there is no card, or its metadata cannot be parsed."""
    text = _card_text(source, revision)
    if not text.lstrip("\ufeff \r\n").startswith("---"):
        return {}  # huggingface_hub would warn about missing metadata
    try:
        return huggingface_hub.ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # YAML libraries raise errors of many types
        return {}


def taken_over(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata in a card's head that also holds for what is made from the model."""
    return {key: head[key] for key in _TAKEN_OVER if head.get(key)}


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value or ()]


def _missing(data: Any) -> list[str]:
    """Return the facts that the publisher has to add to the card."""
    wanted = {"license": "the licence", "language": "the languages it speaks", "datasets": "what it was trained on"}
    return [*(text for key, text in wanted.items() if not data.get(key)), "what it is for", "how it was evaluated"]
