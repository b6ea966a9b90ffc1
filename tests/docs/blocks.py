"""The code blocks of the pages, and what each page says that they print."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_BETWEEN = re.compile(r"(\s|<!--.*?-->)*", re.DOTALL)  # two blocks with nothing between them that is read


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: path from the root.
        line: where it begins there.
        language: as the page names it; may be empty.
        text: the code.
        shown: what follows as the output of shell commands: the `text` block behind them; empty where there is none.
    """

    page: str
    line: int
    language: str
    text: str
    shown: str = ""

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, continued ones joined, without those that are comments only."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]

    @property
    def shown_by_print(self) -> str:
        """What comments right behind a Python block's `print(...)` say that it prints."""
        lines = self.text.splitlines()
        ends = [node.end_lineno for node in ast.walk(ast.parse(self.text)) if _is_print(node)]
        found = []
        for end in sorted(ends):
            for line in lines[end:]:
                if not line.startswith("# "):
                    break
                found.append(line[2:])
        return "\n".join(found)


def _is_print(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """Return the blocks of a page; a `text` block behind shell commands is their output and no block of its own."""
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    found, end = [], 0
    for match in _FENCE.finditer(text):
        indent, language, code = match.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        line = text[: match.start()].count("\n") + 1
        if (
            language == "text"
            and found
            and found[-1].language == "bash"
            and _BETWEEN.fullmatch(text[end : match.start()])
        ):
            before = found.pop()
            found.append(Block(page, before.line, before.language, before.text, code))
        else:
            found.append(Block(page, line, language, code))
        end = match.end()
    return found


def difference(shown: str, printed: str) -> str | None:
    """Say what a page shows that was not printed; `None`: it was, line by line and without gaps.

    A line `...` stands for any lines, and `…` inside a line for anything.
    """
    pattern = ""
    for line in shown.rstrip("\n").splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ ]*\n"
    if re.search(pattern, "\n" + printed + "\n") and re.search(rf"(?m)^{pattern}", printed + "\n"):
        return None
    return f"the page shows\n{shown}\nbut this was printed:\n{printed}"
