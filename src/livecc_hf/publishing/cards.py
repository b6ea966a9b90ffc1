"""Checks a card before it is published: it must parse, name a licence, and not name local paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.cards import CARD_FILE, parse_card, read_head
from ..checkpoints.names import looks_like_hub_id
from .contents import ADAPTER, SPACE, Contents
from .hub import PushError

if TYPE_CHECKING:
    from huggingface_hub import RepoCard

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def license_of(source: str | None) -> str | None:
    """Return the licence in the card of a model's folder or Hub repository; `None` if it has none or "other"."""
    found = read_head(source).get("license") if source else None
    return found if isinstance(found, str) and found != "other" else None


def read_card(contents: Contents) -> RepoCard:
    """Read a folder's card.

    Raises:
        PushError: if there is no card, or it does not parse.
    """
    path = contents.folder / CARD_FILE
    if not path.is_file():
        raise PushError(
            f"{contents.folder} has no {CARD_FILE}: write a card that describes the {contents.kind}, its licence and "
            "its origin"
        )
    return parse_card(path, PushError)


def check_card(contents: Contents, card: RepoCard) -> None:
    """Check that a card names a licence, and Hub ids instead of local paths.

    Raises:
        PushError: if it has no licence, or names a local folder as a base or model.
    """
    data, path = card.data.to_dict(), contents.folder / CARD_FILE
    licence = data.get("license")
    if contents.kind != SPACE and not licence:
        raise PushError(f"{path} names no licence: add license: to its metadata, or give --license apache-2.0")
    if licence == "other" and not (data.get("license_name") and data.get("license_link")):
        raise PushError(f"{path} has license: other, which needs license_name and license_link too")
    for key in ("base_model", "models"):
        values = data.get(key)
        for value in values if isinstance(values, list) else [values] if values else []:
            if not looks_like_hub_id(str(value)):
                fix = "give the Hub id with --base-id" if key == "base_model" else "replace it by the Hub id"
                raise PushError(f"{path} names {value!r} as {key}, which is not a Hub id that others can load: {fix}")


def check_license(licence: str, option: str = "--license") -> None:
    """Check that a licence has the form of an identifier of the Hub.

    Raises:
        PushError: if it has not, or is "other"; the message names `option`.
    """
    if not _LICENSE.fullmatch(licence) or licence == "other":
        raise PushError(
            f"{option} {licence} is not a licence identifier: expected one such as apache-2.0 or cc-by-4.0; for other "
            "licences, write license: other, license_name and license_link into the card"
        )


def with_license(card: RepoCard, licence: str | None) -> bool:
    """Set the licence of a card, and return whether that changed the card.

    Args:
        card: the card to change.
        licence: an identifier of the Hub; `None` leaves the card unchanged.

    Raises:
        PushError: if `licence` is "other", or does not have the form of an identifier.
    """
    if licence is None:
        return False
    check_license(licence)
    changed = card.data.get("license") != licence
    card.data["license"] = licence
    return changed


def with_base(contents: Contents, card: RepoCard, base_id: str | None, old: str | None) -> bool:
    """Set the base model in a card's metadata and text, and return whether that changed the card.

    Args:
        contents: the folder.
        card: its card, to change.
        base_id: Hub id of the base; `None` leaves the card unchanged.
        old: the base that the adapter's config names, which is replaced in the text.
    """
    if base_id is None:
        return False
    before = str(card)
    card.data["base_model"] = base_id
    if contents.kind == ADAPTER:
        card.data["base_model_relation"] = "adapter"
    if old:
        name = Path(old).name
        text = card.text.replace(f"path/to/{name}", base_id).replace(f"`{name}`", f"`{base_id}`")
        if "/" in old:  # a bare name can be an ordinary word of the text
            text = re.sub(rf"(?<![\w./~-]){re.escape(old)}(?![\w/-])", lambda _: base_id, text)
        card.text = text
    return str(card) != before
