"""What README and docs claim is what was measured; what they link to is there, and every page is found."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", *(ROOT / "docs").glob("*.md")]
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def links_of(page: Path) -> list[str]:
    """Return what a page links to inside the repository, pictures too, outside of code."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"\]\(((?!https?:|mailto:)[^)\s]+)\)", text)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a forge makes of a page's headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", _FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_exist(page):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:docs|examples|recipes|benchmarks|tests|modeling|src)/[^`\s*{]*)`", text):
        assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), path


def test_every_page_is_reached_from_the_readme():
    found, to_read = set(), [ROOT / "README.md"]
    while to_read:
        page = to_read.pop()
        for link in links_of(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target not in found:
                found.add(target)
                to_read.append(target)
    assert set((ROOT / "docs").glob("*.md")) <= found
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == {
        Path(link).name for link in links_of(ROOT / "README.md") if link.startswith("docs/") and link.endswith(".md")
    }, "the list of pages in the README"


def test_every_picture_is_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links_of(page)}
    assert set((ROOT / "docs/images").iterdir()) <= shown
    assert len(re.findall(r"!\[", README)) == 1


def test_no_placeholder_is_left():
    assert "@@" not in README


def test_the_numbers_of_livecc_tiny_are_those_measured():
    measured = json.loads((ROOT / "benchmarks/results/tiny_commentary.json").read_text())
    text = " ".join(README.split())
    assert f"on {measured['clips']} unseen clips it reported {measured['recall']:.2f} of the events within 3 s" in text
    assert f"and {measured['precision']:.2f} of its phrases were correct" in text
    assert measured["targets_met"]


class TestTablesOfFigures:
    @pytest.mark.parametrize("page", ["performance", "interleaving", "backbones"])
    def test_they_say_what_was_measured(self, load, page):
        script = load("performance_page")
        text = (script.DOCS / f"{page}.md").read_text(encoding="utf-8")
        assert script.filled_in(text, script.made_tables()[page]) == text, "run: python benchmarks/performance_page.py"

    def test_another_result_makes_another_page(self, load, tmp_path):
        script = load("performance_page")
        for path in script.RESULTS.glob("*.json"):
            result = json.loads(path.read_text())
            if path.stem == "tiny_commentary":
                result["recall"] = 0.5
            (tmp_path / path.name).write_text(json.dumps(result))
        page = (script.DOCS / "performance.md").read_text(encoding="utf-8")
        changed = script.filled_in(page, script.made_tables(tmp_path)["performance"])
        [(before, after)] = [
            lines for lines in zip(page.splitlines(), changed.splitlines(), strict=True) if lines[0] != lines[1]
        ]
        assert "| 0.500 ±" in after and "recall" in before

    @pytest.mark.parametrize("mark", ["<!-- table interleaving -->", "<!-- /table -->"])
    def test_a_lost_mark_is_said(self, load, mark):
        script = load("performance_page")
        page = (script.DOCS / "interleaving.md").read_text(encoding="utf-8").replace(mark, "")
        with pytest.raises(ValueError, match="table"):
            script.filled_in(page, script.made_tables()["interleaving"])

    def test_each_row_names_a_script_that_writes_its_result(self, load):
        script = load("performance_page")
        for rows in script.read_yaml("performance.yaml").values():
            for _, name, *_ in rows:
                text = (ROOT / "benchmarks" / script.SCRIPTS[name]).read_text(encoding="utf-8")
                assert f"{name}.json" in text
        assert {path.stem for path in script.RESULTS.glob("*.json")} <= set(script.SCRIPTS)
