"""What the README claims is what was measured, and what it links to is there."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_numbers_of_livecc_tiny_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/tiny_commentary.json").read_text())
    section = README.split("## livecc-tiny")[1].split("\n## ")[0]
    values = [float(value) for value in re.findall(r"\| ([0-9.]+) \|$", section, flags=re.MULTILINE)]
    names = ("recall", "precision", "silence", "blanked_recall", "real_time_factor")
    assert values == [round(measured[name], 3) for name in names]
    assert measured["hardware"] in section
    second = json.loads((ROOT / "benchmarks/results/tiny_commentary_second_set.json").read_text())
    assert f"recall {second['recall']:.3f}, precision {second['precision']:.3f}" in section
    for result in (measured, second):
        assert result["targets_met"]


def test_links_and_paths_exist():
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", README)
    paths = re.findall(r"`((?:docs|examples|recipes|benchmarks|tests|modeling|src)/[^`\s]*)`", README)
    for path in [*links, *paths]:
        assert (ROOT / path).exists(), path
    assert links
    assert paths


def test_no_placeholder_is_left():
    assert "@@" not in README
