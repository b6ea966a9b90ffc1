"""The tests of a folder of the package are in the folder of the same name here."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS, PACKAGE = ROOT / "tests", ROOT / "src/livecc_hf"
# Tests of what lies elsewhere or is not of one folder; and the backbones, whose files lie flat in modeling/.
APART = {"benchmarks", "compatibility", "docs", "modeling/backbones"}
# Short commands and finders, run by the tests of what they serve.
WITH_OTHERS = {"assets", "cli/data", "cli/evaluate"}


def folders(root: Path, pattern: str) -> set[str]:
    """The folders with such files, relative to the root; of links only `modeling`."""
    found = [*root.glob(f"*/**/{pattern}"), *root.glob(f"modeling/{pattern}")]
    return {path.parent.relative_to(root).as_posix() for path in found if not path.is_symlink()}


def test_every_folder_of_tests_is_one_of_the_package():
    assert folders(TESTS, "test_*.py") - folders(PACKAGE, "__init__.py") == APART


def test_every_folder_of_the_package_has_tests():
    assert folders(PACKAGE, "__init__.py") - folders(TESTS, "test_*.py") == WITH_OTHERS
