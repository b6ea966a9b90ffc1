"""Writes the tables of docs/performance.md from the recorded results.

    python benchmarks/performance_page.py            # after a benchmark has written its result
    python benchmarks/performance_page.py --check    # exit code 1 where the page says something else

Its rows are in performance.yaml; each is filled from one file in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
HEAD = "| what | figure | of how many | hardware | script | measured |\n|---|--:|---|---|---|---|\n"
BENCHMARKS = Path(__file__).resolve().parent
_TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined)
# The script that writes each result.
SCRIPTS = {
    name: path.relative_to(BENCHMARKS).as_posix()
    for path in BENCHMARKS.glob("*/*.py")
    for name in re.findall(r'^@benchmark\(\s*"(\w+)\.json"', path.read_text(encoding="utf-8"), re.MULTILINE)
}
SCRIPTS["streaming-backbones"] = "streaming/streaming.py"  # with --backbones


def line_of(what: str, name: str, figure: str, of: str, results: Path = RESULTS) -> str:
    """Return a row of performance.yaml as a line of a table."""
    result = json.loads((results / f"{name}.json").read_text())
    cells = (what, _TEMPLATES.from_string(figure).render(result), _TEMPLATES.from_string(of).render(result))
    return f"| {' | '.join(cells)} | {result['hardware']} | `benchmarks/{SCRIPTS[name]}` | {result['measured_on']} |\n"


def read_rows() -> dict[str, list[list[str]]]:
    """Return the rows of each table."""
    return yaml.safe_load((BENCHMARKS / "performance.yaml").read_text(encoding="utf-8"))


def filled_in(page: str, results: Path = RESULTS) -> str:
    """Return the page's text with the tables between their marks made anew.

    Raises:
        ValueError: if a table's marks are missing, or the page has marks of a table that is none.
    """
    made = {name: HEAD + "".join(line_of(*row, results) for row in rows) for name, rows in read_rows().items()}
    marks = re.findall(r"<!-- table (\w+) -->", page)
    if sorted(marks) != sorted(made):
        raise ValueError(f"the page has the tables {sorted(marks)}, the script makes {sorted(made)}")
    for name, text in made.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- /table -->)"
        page, n_found = re.subn(pattern, lambda match, text=text: match[1] + text + match[2], page, flags=re.DOTALL)
        if n_found != 1:
            raise ValueError(f"the table {name} has no end: <!-- /table --> is missing")
    return page


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page differs")
    arguments = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    wanted = filled_in(page)
    if arguments.check:
        print("up to date" if page == wanted else "differs: run python benchmarks/performance_page.py")
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
