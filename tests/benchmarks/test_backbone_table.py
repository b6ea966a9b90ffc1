"""The table of tiny models in docs/backbones.md says what was recorded."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = {
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_untimed": "Qwen3-VL without `<3.2 seconds>`",
}


def line_of(name, model):
    difference = f"{model['recall_difference']:+.3f} ± {model['recall_difference_se']:.3f}"
    cells = (
        NAMES[name],
        f"{model['parameters'] / 1e6:.2f}M",
        f"{model['recall']:.3f} ± {model['recall_se']:.3f}",
        f"{model['precision']:.3f} ± {model['precision_se']:.3f}",
        "" if name == "qwen2_vl" else difference,
        f"{model['training_s'] / 60:.0f} minutes",
    )
    return re.sub(r" +", " ", f"| {' | '.join(cells)} |")


def test_the_page_on_backbones_says_what_was_recorded():
    recorded = json.loads((ROOT / "benchmarks/results/backbones.json").read_text())["models"]
    page = (ROOT / "docs/backbones.md").read_text(encoding="utf-8")
    table = page[page.index("| backbone | weights |") :].split("\n\n")[0].splitlines()[2:]
    assert table == [line_of(name, model) for name, model in recorded.items()]
