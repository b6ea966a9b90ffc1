"""The table of docs/stream-options.md, from the options themselves; run as a script it is written into the page."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from livecc_hf.cli.flags import flag_of
from livecc_hf.modeling.stream_options import StreamOptions

PAGE = Path(__file__).parents[1] / "docs" / "stream-options.md"
_HEAD = "| option | command line | default | range | clients of a server | what it does |\n|---|---|---|---|---|---|\n"


def table(options: type = StreamOptions) -> str:
    """Return the table, a row for each option."""
    return _HEAD + "".join(_row(option) for option in dataclasses.fields(options))


def _row(option: dataclasses.Field) -> str:
    said = option.metadata
    flag = f"`{flag_of(option.name)}`" if said["in_commands"] else ""
    if flag and option.type.startswith("bool"):
        flag += f", `{flag_of(said.get('off', 'no_' + option.name))}`"
    default = "" if option.default is None else f"`{option.default}`"
    client = said["by_client"]
    if isinstance(client, tuple):
        client = f"{_number(client[0])} to {_number(client[1])}"
    client = {True: "yes", False: ""}.get(client, client)
    cells = [f"`{option.name}`", flag, default, _range(said), client, said["help"].replace("|", "\\|")]
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |").replace("|  |", "| |")


def _range(said) -> str:
    if "choices" in said:
        return ", ".join(f"`{choice}`" for choice in said["choices"])
    words = {"above": "above", "from_": "from", "up_to": "to"}
    return " ".join(f"{word} {_number(said[name])}" for name, word in words.items() if name in said)


def _number(value: float) -> str:
    for power in (31, 63, 64):
        for offset, text in ((0, ""), (-1, " - 1")):
            if value == 2**power + offset:
                return f"2^{power}{text}"
            if value == -(2**power) and not offset:
                return f"-2^{power}"
    return f"{value:g}"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(_HEAD.partition("\n")[0])
    end = text.index("\n\n", start) + 1 if "\n\n" in text[start:] else len(text)
    PAGE.write_text(text[:start] + table() + text[end:], encoding="utf-8")
