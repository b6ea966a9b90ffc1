"""Writes the tables of docs/performance.md from the recorded results.

    python benchmarks/performance_page.py            # after a benchmark has written its result
    python benchmarks/performance_page.py --check    # exit code 1 if the page differs

performance.yaml has the rows; each takes its figures from one file in benchmarks/results.
"""

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

PAGE, BENCHMARKS = ROOT / "docs" / "performance.md", ROOT / "benchmarks"
HEAD = "| what | figure | of how many | hardware | script | measured |\n|---|--:|---|---|---|---|\n"
_TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined)
# The script that writes each result.
SCRIPTS = {
    name: path.relative_to(BENCHMARKS).as_posix()
    for path in BENCHMARKS.glob("*/*.py")
    for name in re.findall(r'^@benchmark\(\s*"(\w+)\.json"', path.read_text(encoding="utf-8"), re.MULTILINE)
}
SCRIPTS["streaming-backbones"] = "streaming/streaming.py"  # with --backbones


def line_of(row: Sequence[str], results: Path = RESULTS) -> str:
    """Return a row of performance.yaml as a line of a table."""
    what, name, figure, of = row
    result = json.loads((results / f"{name}.json").read_text())
    cells = (what, _TEMPLATES.from_string(figure).render(result), _TEMPLATES.from_string(of).render(result))
    return f"| {' | '.join(cells)} | {result['hardware']} | `benchmarks/{SCRIPTS[name]}` | {result['measured_on']} |\n"


def read_rows() -> dict[str, list[list[str]]]:
    """Return the rows of each table."""
    return yaml.safe_load((BENCHMARKS / "performance.yaml").read_text(encoding="utf-8"))


def filled_in(page: str, results: Path = RESULTS) -> str:
    """Return the page's text with new tables between their marks.

    Raises:
        ValueError: if a table's marks are missing, or the page has marks of an unknown table.
    """
    made = {name: HEAD + "".join(line_of(row, results) for row in rows) for name, rows in read_rows().items()}
    marks = re.findall(r"<!-- table (\w+) -->", page)
    if sorted(marks) != sorted(made):
        raise ValueError(f"the page has the tables {sorted(marks)}, the script makes {sorted(made)}")
    for name, text in made.items():
        pattern, escaped = rf"(<!-- table {name} -->\n).*?(<!-- /table -->)", text.replace("\\", r"\\")
        page, n_found = re.subn(pattern, rf"\g<1>{escaped}\g<2>", page, flags=re.DOTALL)
        if n_found != 1:
            raise ValueError(f"the table {name} has no end: <!-- /table --> is missing")
    return page


def main() -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page differs")
    is_check, page = parser.parse_args().check, PAGE.read_text(encoding="utf-8")
    wanted = filled_in(page)
    if is_check:
        print("up to date" if page == wanted else "differs: run python benchmarks/performance_page.py")
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
