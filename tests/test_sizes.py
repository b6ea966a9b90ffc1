"""Files and functions are small enough to be read at once."""

import ast
from pathlib import Path

from import_graph import find_modules

ROOT = Path(__file__).parents[1]
MODULES = find_modules(ROOT / "src/livecc_hf", "livecc_hf") | find_modules(ROOT / "modeling", "livecc_hf.modeling")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring and the decorators above it."""
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    n_doc = 0 if docstring is None else docstring.end_lineno - docstring.lineno + 1
    return function.end_lineno - function.lineno + 1 - n_doc


def test_files_are_not_long():
    n_lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    assert len(n_lines) > 200
    assert {name: n for name, n in n_lines.items() if n > MAX_FILE_LINES} == {}


def test_functions_are_not_long():
    functions = {
        f"{name}.{node.name}": code_lines(node)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(functions) > 2000
    assert {name: n for name, n in functions.items() if n > MAX_FUNCTION_LINES} == {}
