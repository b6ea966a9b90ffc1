"""Reads the `config.json` of a model of this package, or of a published checkpoint of LiveCC or a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..modeling import LiveCCConfig
from ..modeling.backbones import BACKBONES, backbone_of_values, check_backbone, find_backbone
from ..modeling.grammar import grammar_of_names
from ..utils.text import one_line
from .errors import ModelLoadError, hub_message
from .names import CONFIG_FILE, check_model_name, expand_home

OWN_TYPE = LiveCCConfig.model_type


def read_config_dict(source: str, revision: str | None = None) -> dict[str, Any]:
    """Return the contents of a model's `config.json`.

    Args:
        source: folder or Hub id of a whole model.
        revision: revision on the Hub; default: the newest.

    Raises:
        ModelLoadError: if the source does not exist, or holds a model of another type.
    """
    check_model_name(source)
    path = Path(source).expanduser()
    if path.is_dir() and not (path / CONFIG_FILE).is_file():
        raise ModelLoadError(f"{source} holds no config.json: expected a folder written by save_pretrained")
    try:
        values, _ = LiveCCConfig.get_config_dict(expand_home(source), revision=revision)
    except Exception as error:
        if path.is_dir():
            raise ModelLoadError(f"{source}: config.json cannot be read: {one_line(error)}") from error
        raise ModelLoadError(hub_message(source, error)) from error
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if model_type not in (OWN_TYPE, *BACKBONES):
        try:
            check_backbone(model_type)
        except ValueError as error:
            raise ModelLoadError(f"{source} holds a model of type {model_type!r}: {error}, or {OWN_TYPE}") from None
    return values


def is_published(values: dict[str, Any]) -> bool:
    """Return whether a config is of a published checkpoint of LiveCC or a backbone, not of a model of this package."""
    return values["model_type"] != OWN_TYPE


def published_scheme(source: str, values: dict[str, Any]) -> str | None:
    """Return the position scheme that a published checkpoint's name suggests.

    Args:
        source: folder or Hub id of the checkpoint.
        values: contents of its `config.json`.

    Returns:
        `reference` if its name contains LiveCC, else `None`.
    """
    return "reference" if any("livecc" in name for name in _names_of(source, values)) else None


def published_grammar(source: str, values: dict[str, Any]) -> str | None:
    """Return the grammar that a published checkpoint's name suggests, or `None`.

    Args:
        source: folder or Hub id of the checkpoint.
        values: contents of its `config.json`.
    """
    return grammar_of_names(_names_of(source, values))


def _names_of(source: str, values: dict[str, Any]) -> list[str]:
    """Return the names of a checkpoint in lower case: its Hub id or folder, and the name in its config."""
    names = [source]
    path = Path(source).expanduser()
    if path.is_dir():
        # In the Hub's cache, the folder is named by the commit, and a parent folder by the repository.
        names = [path.resolve().name] + [part for part in path.resolve().parts if part.startswith("models--")]
    names.append(str(values.get("_name_or_path") or ""))
    return [name.lower() for name in names]


def only_scheme(values: dict[str, Any]) -> str | None:
    """Return the only position scheme that a config's backbone supports; `None` if it supports several."""
    known = find_backbone(backbone_of_values(values)).position_schemes
    return known[0] if len(known) == 1 else None


def make_config(source: str, values: dict[str, Any]) -> LiveCCConfig:
    """Return a `LiveCCConfig` with the values of a `config.json`.

    Args:
        source: the checkpoint, for the error message.
        values: contents of its `config.json`.

    Raises:
        ModelLoadError: if the values are not valid.
    """
    if is_published(values):
        backbone = {"backbone": backbone_of_values(values)}
        values = {k: v for k, v in values.items() if k not in ("model_type", "architectures", "auto_map")} | backbone
    try:
        return LiveCCConfig.from_dict(values)
    except Exception as error:  # transformers validates configs with several error types
        raise ModelLoadError(f"{source}: config.json is not valid: {one_line(error)}") from error


def stored_dtype(config: LiveCCConfig) -> str:
    """Return the dtype that a checkpoint's weights are stored in, such as `bfloat16`."""
    return str(config.dtype or "float32").removeprefix("torch.")
