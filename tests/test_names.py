"""A name is one thing: no two public classes of the package are called the same."""

import ast
from collections import defaultdict
from pathlib import Path

from import_graph import find_modules

ROOT = Path(__file__).parents[1]


def test_no_two_public_classes_have_one_name():
    modules = find_modules(ROOT / "src/livecc_hf", "livecc_hf") | find_modules(ROOT / "modeling", "livecc_hf.modeling")
    owners = defaultdict(list)
    for module, path in modules.items():
        for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                owners[node.name].append(module)
    assert len(owners) > 200
    assert {name: names for name, names in owners.items() if len(names) > 1} == {}
