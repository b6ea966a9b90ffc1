"""The rooms of the package stand on floors: a room imports from floors below its own, and nothing goes in circles."""

import re
from pathlib import Path

import pytest
from import_graph import Import, find_circles, find_modules, read_imports

ROOT = Path(__file__).parents[1]
# From the ground up. Rooms of one floor do not know each other.
FLOORS = (
    ("modeling", "utils", "assets"),
    ("captions", "acceleration", "tiny", "endpoints"),
    ("video",),
    ("sources", "rendering", "checkpoints", "questions"),
    ("data", "pool"),
    ("evaluation",),
    ("publishing",),
    ("training", "production", "serve"),
    ("space",),
    ("cli",),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# What is not yet as it should be; these lists only get shorter.
KNOWN_CLIMBS: set[tuple[str, str]] = set()
KNOWN_CIRCLES: list[set[str]] = []


def room_of(module: str) -> str:
    """The folder below the package; "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """Those within the package; its own `__init__` gives names on demand and belongs to no floor."""
    modules = find_modules(ROOT / "src/livecc_hf", "livecc_hf") | find_modules(ROOT / "modeling", "livecc_hf.modeling")
    found = read_imports(modules)
    assert {found.kind for found in found} == {"module", "function", "types"}
    assert len(modules) > 250 and len(found) > 1000
    return [each for each in found if "livecc_hf" not in (each.importer, each.imported)]


def test_every_room_has_its_floor(imports):
    rooms = {room_of(name) for each in imports for name in (each.importer, each.imported)}
    assert rooms - set(FLOOR_OF) == set(), "add the room to FLOORS, or the file to a room"


def test_no_room_imports_from_its_own_floor_or_above(imports):
    climbs = {}
    for each in imports:
        pair = room_of(each.importer), room_of(each.imported)
        if pair[0] != pair[1] and FLOOR_OF[pair[1]] >= FLOOR_OF[pair[0]]:
            climbs.setdefault(pair, []).append(f"{each.importer}:{each.line} imports {each.imported}")
    new = {pair: lines for pair, lines in climbs.items() if pair not in KNOWN_CLIMBS}
    assert not new
    assert set(climbs) == KNOWN_CLIMBS, "take what is mended off the list"


def test_no_modules_import_each_other_in_a_circle(imports):
    """Not for annotations either: two modules that name each other's classes are one module in two files."""
    circles = [set(circle) for circle in find_circles((each.importer, each.imported) for each in imports)]
    assert [circle for circle in circles if circle not in KNOWN_CIRCLES] == []
    assert len(circles) == len(KNOWN_CIRCLES), "take what is mended off the list"


class TestReading:
    """Of a made-up package."""

    @pytest.fixture()
    def found(self, tmp_path):
        files = {
            "__init__.py": "",
            "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .deep.c import C\nimport top.b\n",
            "b.py": "class B:\n    def f(self):\n        from . import a, deep\n",
            "deep/__init__.py": "",
            "deep/c.py": "try:\n    from ..b import B, other\nexcept ImportError:\n    from top import a\nimport os\n",
            "files/template.py": "import top.a\n",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        modules = find_modules(tmp_path, "top")
        assert set(modules) == {"top", "top.a", "top.b", "top.deep", "top.deep.c"}
        return read_imports(modules)

    def test_finds_every_kind_with_its_line(self, found):
        assert {(each.importer, each.imported, each.line, each.kind) for each in found} == {
            ("top.a", "top.deep.c", 3, "types"),
            ("top.a", "top.b", 4, "module"),
            ("top.b", "top.a", 3, "function"),
            ("top.b", "top.deep", 3, "function"),
            ("top.deep.c", "top.b", 2, "module"),
            ("top.deep.c", "top.a", 4, "module"),
        }

    def test_finds_circles(self, found):
        edges = [(each.importer, each.imported) for each in found]
        assert find_circles(edges) == [["top.a", "top.b", "top.deep.c"]]
        assert find_circles([("x", "y"), ("y", "z"), ("z", "y"), ("y", "x2")]) == [["y", "z"]]
        assert find_circles([("x", "y"), ("x", "z")]) == []


PAGE = (ROOT / "docs/architecture.md").read_text()


def test_the_page_on_architecture_draws_these_floors():
    drawn = re.findall(r"  subgraph (\w+).*?\n(.*?)\n  end\n", PAGE, re.DOTALL)
    assert f"  {' --> '.join(name for name, _ in drawn)}\n" in PAGE
    assert [set(re.findall(r"^    (\w+)\[", inside, re.MULTILINE)) for _, inside in drawn] == [*map(set, FLOORS)]


def test_the_page_on_architecture_names_what_exists():
    named = re.findall(r"`(\w+/[\w/]*)`", PAGE)
    assert len(named) > 15
    for name in named:
        places = [ROOT / name, ROOT / f"{name}.py", ROOT / "src/livecc_hf" / name, ROOT / f"src/livecc_hf/{name}.py"]
        assert any(place.exists() for place in places), name
    defined = {"SFTTrainer"}  # of TRL
    for path in (*(ROOT / "modeling").glob("*.py"), *(ROOT / "src/livecc_hf").rglob("*.py")):
        defined |= {path.stem, *re.findall(r"^ *(?:class|def) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)}
    bare = {part for name in re.findall(r"`([A-Za-z_][\w.]*)`", PAGE) for part in name.split(".")}
    assert len(bare) > 15
    assert bare - defined == set()
