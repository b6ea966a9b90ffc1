"""Writes the tables of docs/performance.md, and those of other pages, from the recorded results.

    python benchmarks/performance_page.py            # after a benchmark has written its result

performance.yaml has the rows of docs/performance.md; each takes its figures from one file in benchmarks/results.
tables.yaml has the tables of other pages.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from harness import RESULTS, ROOT

DOCS, BENCHMARKS = ROOT / "docs", ROOT / "benchmarks"
HEAD = "| what | figure | of how many | hardware | script | measured |\n|---|--:|---|---|---|---|\n"
SOURCE = ("{{ hardware }}", "`benchmarks/{{ script }}`", "{{ measured_on }}")
_TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined)
# The script that writes each result.
SCRIPTS = {
    name: path.relative_to(BENCHMARKS).as_posix()
    for path in BENCHMARKS.glob("*/*.py")
    for name in re.findall(r'^@benchmark\(\s*"(\w+)\.json"', path.read_text(encoding="utf-8"), re.MULTILINE)
}
SCRIPTS["streaming-backbones"] = "streaming/streaming.py"  # with --backbones


def read_yaml(name: str) -> dict[str, Any]:
    """Return what a file of this folder says."""
    return yaml.safe_load((BENCHMARKS / name).read_text(encoding="utf-8"))


def line_of(templates: Iterable[str], figures: Mapping[str, Any]) -> str:
    """Return a line of a table: a template a cell, with the figures in it."""
    return "".join(f"| {_TEMPLATES.from_string(template).render(figures)} " for template in templates) + "|\n"


def made_tables(results: Path = RESULTS) -> dict[str, dict[str, str]]:
    """Return the text of each table of each page."""
    recorded = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    made: dict[str, dict[str, str]] = {"performance": {}}
    for table, rows in read_yaml("performance.yaml").items():
        made["performance"][table] = HEAD
        for what, name, *cells in rows:
            made["performance"][table] += line_of([what, *cells, *SOURCE], {"script": SCRIPTS[name]} | recorded[name])
    for page, (part, columns) in read_yaml("tables.yaml").items():
        lines = [line_of(columns.values(), {"name": name, **row}) for name, row in recorded[page][part].items()]
        head = line_of(columns, {}) + "|---" + "|--:" * (len(columns) - 1) + "|\n"
        made[page] = {page: head + "".join(lines)}
    return made


def filled_in(page: str, tables: Mapping[str, str]) -> str:
    """Return a page's text with new tables between their marks.

    Raises:
        ValueError: if the page has not these tables, each with both of its marks.
    """
    pattern = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
    if (found := sorted(match[2] for match in pattern.finditer(page))) != sorted(tables):
        raise ValueError(f"tables between their marks in the page: {found}; expected {sorted(tables)}")
    return pattern.sub(lambda match: match[1] + tables[match[2]] + match[3], page)


if __name__ == "__main__":
    for name, tables in made_tables().items():
        page = DOCS / f"{name}.md"
        page.write_text(filled_in(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
