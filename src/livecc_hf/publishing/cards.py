"""Checks a folder's card before it is published: it parses, names a licence, and names no path of this machine."""

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
    """Return the licence that the card of a model's folder or Hub repository names; `None` if it names none."""
    found = read_head(source).get("license") if source else None
    return found if isinstance(found, str) and found != "other" else None


def read_card(contents: Contents) -> RepoCard:
    """Read a folder's card.

    Raises:
        PushError: if there is none, or it does not parse.
    """
    path = contents.folder / CARD_FILE
    if not path.is_file():
        raise PushError(
            f"{contents.folder} has no {CARD_FILE}: write a card with what the {contents.kind} is, its licence, and "
            "what it was made from"
        )
    return parse_card(path, PushError)


def check_card(contents: Contents, card: RepoCard) -> None:
    """Check that a card has the facts that a repository needs.

    Raises:
        PushError: if it has no licence, or names a folder of this machine as a base or model.
    """
    data, path = card.data.to_dict(), contents.folder / CARD_FILE
    licence = data.get("license")
    if contents.kind != SPACE and not licence:
        raise PushError(f"{path} names no licence: add license: to its head, or give --license apache-2.0")
    if licence == "other" and not (data.get("license_name") and data.get("license_link")):
        raise PushError(f"{path} has license: other, which needs license_name and license_link beside it")
    for key in ("base_model", "models"):
        values = data.get(key)
        for value in [values] if isinstance(values, str) else values or []:
            if not looks_like_hub_id(str(value)):
                way = "give the Hub id with --base-id" if key == "base_model" else "write the Hub id there"
                raise PushError(f"{path} names {value!r} as {key}, which is not a Hub id: others cannot find it; {way}")


def with_license(card: RepoCard, licence: str | None) -> bool:
    """Put a licence into a card; return whether that changed it.

    Raises:
        PushError: if the Hub does not know it by name.
    """
    if licence is None:
        return False
    if not _LICENSE.fullmatch(licence) or licence == "other":
        raise PushError(
            f"--license {licence} is not the identifier of a licence: expected such as apache-2.0 or cc-by-4.0; for "
            "another write license: other, license_name and license_link into the card"
        )
    changed = card.data.get("license") != licence
    card.data["license"] = licence
    return changed


def with_base(contents: Contents, card: RepoCard, base_id: str | None, old: str | None) -> bool:
    """Write a base into a card, also in its text; return whether that changed it.

    Args:
        contents: the folder.
        card: its card.
        base_id: the Hub id; `None` leaves the card alone.
        old: the adapter's name for its base.
    """
    if base_id is None:
        return False
    before = str(card)
    card.data["base_model"] = base_id
    if contents.kind == ADAPTER:
        card.data["base_model_relation"] = "adapter"
    if old:
        text = card.text.replace(old, base_id)
        name = Path(old).name
        card.text = text.replace(f"path/to/{name}", base_id).replace(f"`{name}`", f"`{base_id}`")
    return str(card) != before
