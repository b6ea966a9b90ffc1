"""What imports what in a package, read from its source: also inside functions and for annotations only."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """A line of a module that imports another.

    Attributes:
        importer, imported: dotted names of modules.
        line: where, from 1.
        kind: "module": when the module is loaded; "function": when one is called; "types": for annotations only.
    """

    importer: str
    imported: str
    line: int
    kind: str


def find_modules(folder: Path, package: str) -> dict[str, Path]:
    """Return the modules of a package by dotted name; folders without `__init__.py` and links are left out."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parents = [folder / Path(*path.relative_to(folder).parts[:depth]) for depth in range(len(path.parts))]
        own = [parent for parent in parents if parent == path.parent or parent in path.parents]
        if path.is_symlink() or not all((parent / "__init__.py").is_file() for parent in own):
            continue
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def read_imports(modules: Mapping[str, Path]) -> list[Import]:
    """Return every import of one of the modules by another."""
    return [found for name, path in modules.items() for found in _imports_of(name, path, modules)]


def _imports_of(name: str, path: Path, modules: Mapping[str, Path]) -> Iterable[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node, kind in _statements(ast.parse(path.read_text(encoding="utf-8")), "module"):
        for imported in _names(node, package, modules):
            if imported in modules and imported != name:
                yield Import(name, imported, node.lineno, kind)


def _statements(node: ast.AST, kind: str) -> Iterable[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, kind
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for part in child.body:
                yield from _statements(ast.Module([part], []), "types")
            for part in child.orelse:
                yield from _statements(ast.Module([part], []), kind)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _statements(child, "function" if is_function else kind)


def _names(node: ast.Import | ast.ImportFrom, package: str, modules: Mapping[str, Path]) -> Iterable[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parents = package.split(".")
    base = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
    base = ".".join(filter(None, (base, node.module)))
    full = [f"{base}.{alias.name}" for alias in node.names]
    return dict.fromkeys(name if name in modules else base for name in full)  # a package's module, or a module's name


def find_circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of nodes that all reach one another, each sorted."""
    following: dict[str, set[str]] = {}
    for start, end in edges:
        following.setdefault(start, set()).add(end)
        following.setdefault(end, set())
    reached = {node: _reachable(node, following) for node in following}
    groups = {tuple(sorted(other for other in reached[node] if node in reached[other])) for node in following}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reachable(node: str, following: Mapping[str, set[str]]) -> set[str]:
    seen, waiting = set(), [node]
    while waiting:
        for other in following[waiting.pop()] - seen:
            seen.add(other)
            waiting.append(other)
    return seen
