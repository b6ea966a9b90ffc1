"""A rule stands in one place; other code calls it."""

import re
from pathlib import Path

import pytest
from import_graph import find_modules

ROOT = Path(__file__).parents[1]
MODULES = find_modules(ROOT / "src/livecc_hf", "livecc_hf") | find_modules(ROOT / "modeling", "livecc_hf.modeling")
TEXTS = {name.removeprefix("livecc_hf."): path.read_text(encoding="utf-8") for name, path in MODULES.items()}


@pytest.mark.parametrize(
    ("written", "modules"),
    [
        (r"add_special_tokens=False", {"modeling.grammar"}),
        (r"MIN_FRAME_TOKENS \* 1", {"modeling.grammar"}),  # a clip's pixels per frame
        # The second one writes a file in several runs.
        (r"os\.replace\(|\bpartial\.replace\(", {"utils.atomic", "data.batches.packing"}),
        (r"PeftConfig\.from_pretrained\(", {"checkpoints.adapters"}),
    ],
)
def test_stands_once(written, modules):
    assert {name for name, text in TEXTS.items() if re.search(written, text)} == modules
