"""A name is one thing: no two public classes or functions of the package are called the same."""

import ast
from collections import defaultdict
from pathlib import Path

from import_graph import find_modules

ROOT = Path(__file__).parents[1]
# Functions that are called by their name in any of several modules, or that stand in for the one in `modeling`.
ROLES = {
    "add_arguments", "run", "main",  # a command
    "prompts_of", "read_questions",  # the reader of a task's questions
    "iter_frames", "load_video", "read_file",  # `video` for `modeling`
    "build",  # of a dataset, and of a deployment, as Ray Serve names it
}  # fmt: skip


def owners_of(*kinds):
    """The modules that define each public name at their top level."""
    modules = find_modules(ROOT / "src/livecc_hf", "livecc_hf") | find_modules(ROOT / "modeling", "livecc_hf.modeling")
    owners = defaultdict(set)
    for module, path in modules.items():
        for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                owners[node.name].add(module)
    assert len(owners) > 200
    return {name: names for name, names in owners.items() if len(names) > 1}


def test_no_two_public_classes_have_one_name():
    assert owners_of(ast.ClassDef) == {}


def test_no_two_public_functions_have_one_name():
    twice = owners_of(ast.FunctionDef, ast.AsyncFunctionDef)
    assert {name: modules for name, modules in twice.items() if name not in ROLES} == {}
    assert set(twice) >= ROLES, "take out what is no longer there twice"
