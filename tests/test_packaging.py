"""The shape of the project: what is packaged, what may import what, and what an import costs."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODELING = sorted((ROOT / "modeling").glob("*.py"))
ALLOWED = {"torch", "torchvision", "transformers"} | set(sys.stdlib_module_names)


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = ["livecc_hf.modeling"] + [
        ".".join(path.parent.relative_to(ROOT / "src").parts) for path in (ROOT / "src").rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(found)


@pytest.mark.parametrize("path", MODELING, ids=lambda path: path.stem)
def test_published_code_stands_alone(path):
    """Only flat relative imports and what transformers needs anyway; PyAV only where a file is read, guarded."""
    tree = ast.parse(path.read_text())
    guarded = {id(n) for node in ast.walk(tree) if isinstance(node, ast.Try) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module and "." not in node.module
            assert (path.parent / f"{node.module}.py").exists()
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            for name in names:
                root = name.split(".")[0]
                assert root in ALLOWED or (root == "av" and id(node) in guarded), f"{path.name} imports {name}"


@pytest.mark.parametrize("module", ["livecc_hf", "livecc_hf.cli.main", "livecc_hf.loading"])
def test_imports_are_cheap(module):
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'av')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_importing_does_nothing_to_the_environment():
    code = (
        "import os, torch, torchvision, transformers; before = dict(os.environ)\n"
        "import livecc_hf.modeling, livecc_hf.convert, livecc_hf.cli.main\n"
        "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
