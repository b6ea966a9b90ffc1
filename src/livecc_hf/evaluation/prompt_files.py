"""Reads the prompts of benchmark protocols: JSON files that hold the published texts character for character."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Prompts:
    """The prompts of one protocol.

    Attributes:
        name: file name without suffix.
        source: project and file that the texts were copied from.
        texts: templates by name, with `{field}` placeholders.
    """

    name: str
    source: str
    texts: dict[str, str]

    def fill(self, text: str, **values: str) -> str:
        """Return a template with its fields filled in; braces inside the values are not expanded.

        Raises:
            KeyError: if the template or the value of a field is missing.
        """
        return re.sub(r"\{(\w+)\}", lambda match: str(values[match[1]]), self.texts[text])

    def __getitem__(self, text: str) -> str:
        return self.texts[text]

    def get(self, text: str) -> str:
        """Return a text, or "" if the protocol does not have it."""
        return self.texts.get(text, "")

    @property
    def hash(self) -> str:
        """Return the hash that file headers record: the first 16 hexadecimal digits of the SHA-256 of all texts."""
        value = json.dumps(self.texts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(value.encode()).hexdigest()[:16]


def load_prompts(folder: str, name: str) -> Prompts:
    """Read the prompts of a protocol.

    Args:
        folder: "tasks" or "judging".
        name: file name without suffix.
    """
    path = files("livecc_hf.evaluation") / folder / "prompts" / f"{name}.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    return Prompts(name, value["source"], value["texts"])
