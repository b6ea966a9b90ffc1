"""Import rules of the checkpoints folder."""

import ast
from pathlib import Path

import livecc_hf

ROOM = sorted((Path(livecc_hf.__file__).parent / "checkpoints").glob("*.py"))
LATE = {"torch", "transformers", "peft"}  # slow to import, or optional


def test_nothing_else_is_imported_inside_a_function():
    late = set()
    for path in ROOM:
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom):
                    late.add((path.name, "." * node.level + (node.module or "")))
                elif isinstance(node, ast.Import):
                    late |= {(path.name, alias.name) for alias in node.names}
    assert {module.split(".")[0] for _, module in late} == LATE, late


def test_an_adapters_config_is_read_in_one_place():
    calls = [
        (path.name, node.lineno)
        for path in ROOM
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "read_adapter"
    ]
    assert len(calls) == 1, calls
