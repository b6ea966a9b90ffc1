"""Reads prompts, which are part of a protocol: data beside the code that uses them, exact to the character."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Prompts:
    """The texts of one protocol.

    Attributes:
        name: of the file.
        source: the project and file that they are from.
        texts: templates by name; `{field}` is filled in.
    """

    name: str
    source: str
    texts: dict[str, str]

    def fill(self, text: str, **values: str) -> str:
        """Return a template with its fields filled in; braces in the values stay as they are.

        Raises:
            KeyError: if there is no such text, or a field has no value.
        """
        return re.sub(r"\{(\w+)\}", lambda match: str(values[match[1]]), self.texts[text])

    def __getitem__(self, text: str) -> str:
        return self.texts[text]

    def get(self, text: str) -> str:
        """Return a text; "" if the protocol has none of that name."""
        return self.texts.get(text, "")

    @property
    def hash(self) -> str:
        """Return a hash of all texts for headers: the first 16 hexadecimal digits of a SHA-256."""
        value = json.dumps(self.texts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(value.encode()).hexdigest()[:16]


def load_prompts(folder: str, name: str) -> Prompts:
    """Read a file of prompts.

    Args:
        folder: "tasks" or "judging".
        name: of the file, without its ending.
    """
    path = files("livecc_hf.evaluation") / folder / "prompts" / f"{name}.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    return Prompts(name, value["source"], value["texts"])
