"""The shape of the project: what is packaged, what may import what, and what an import costs."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from livecc_hf.assets.bundled_recipes import recipe_names, recipe_path, with_recipe_as_config
from livecc_hf.cli.main import main

ROOT = Path(__file__).parents[1]
MODELING = sorted((ROOT / "modeling").glob("*.py"))
ALLOWED = {"torch", "torchvision", "transformers", "PIL"} | set(sys.stdlib_module_names)  # torchvision needs Pillow


@pytest.mark.parametrize("with_links", [True, False], ids=["links", "files"])
def test_every_package_is_found(with_links, tmp_path):
    """Also where git writes a link as a text file, as on Windows."""
    code = [path.relative_to(ROOT) for path in (ROOT / "src").rglob("__init__.py")]
    for path in code:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    link = tmp_path / "src/livecc_hf/modeling"
    (tmp_path / "modeling").mkdir()
    (tmp_path / "modeling/__init__.py").touch()
    link.symlink_to("../../modeling") if with_links else link.write_text("../../modeling")
    shutil.copy(ROOT / "setup.py", tmp_path)
    show = "from distutils.core import run_setup; print(*run_setup('setup.py', stop_after='init').packages)"
    command = [sys.executable, "-c", f"import setuptools; {show}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mapped = {"livecc_hf.modeling", "livecc_hf.recipes", "livecc_hf.examples"}
    assert set(done.stdout.split()) == {".".join(path.parent.parts[1:]) for path in code} | mapped


def test_modeling_stands_in_the_package_too():
    """For editors and type checkers, which do not read `setup.py`."""
    link = ROOT / "src/livecc_hf/modeling"
    assert link.is_symlink() and not link.readlink().is_absolute()
    assert link.samefile(ROOT / "modeling")


@pytest.mark.parametrize("path", MODELING, ids=lambda path: path.stem)
def test_published_code_stands_alone(path):
    """Only flat relative imports and what transformers needs anyway; PyAV only where a file is read, guarded."""
    tree = ast.parse(path.read_text())
    guarded = {id(n) for node in ast.walk(tree) if isinstance(node, ast.Try) for n in ast.walk(node)}
    checks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {id(n) for check in checks for n in ast.walk(check)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            if node.module is None:  # which transformers does not follow
                assert [alias.name for alias in node.names] == ["interfaces"] and id(node) in for_types
            else:
                assert "." not in node.module
                assert (path.parent / f"{node.module}.py").exists()
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            for name in names:
                root = name.split(".")[0]
                assert root in ALLOWED or (root == "av" and id(node) in guarded), f"{path.name} imports {name}"


@pytest.mark.parametrize(
    "module",
    [
        "livecc_hf",
        "livecc_hf.cli.main",
        "livecc_hf.checkpoints.names",
        "livecc_hf.checkpoints.cards",
        "livecc_hf.modeling.grammar",
        "livecc_hf.production.stages.clips",
    ],
)
def test_imports_are_cheap(module):
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'av')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Also: importing this package does nothing to the environment.
TRANSFORMERS_FIRST = """
import os, torch, torchvision, transformers
before = dict(os.environ)
import livecc_hf.modeling, livecc_hf.checkpoints.convert, livecc_hf.cli.main
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
"""


@pytest.mark.parametrize(
    "imports",
    [
        TRANSFORMERS_FIRST,
        "from livecc_hf.modeling.grammar import MAX_FRAMES; import transformers",
        "from livecc_hf.modeling.stream import CommentaryStream",
    ],
    ids=["transformers", "grammar", "stream"],
)
def test_the_type_is_registered_whatever_is_imported_first(imports):
    code = (
        f"{imports}\nimport sys; from transformers import AutoConfig, AutoModel, AutoVideoProcessor\n"
        "config = AutoConfig.for_model('livecc'); known = AutoModel._model_mapping\n"
        "assert known[type(config)].__name__ == 'LiveCCForConditionalGeneration'\n"
        "assert type(config) is sys.modules['livecc_hf.modeling'].LiveCCConfig"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked; built from a copy, so that nothing is left in the source tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("src", "modeling", "recipes", "examples"):
        shutil.copytree(ROOT / name, source / name, True, shutil.ignore_patterns("__pycache__", "*.egg-info"))
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Package would be ignored" not in done.stderr
    path = next(out.glob("*.whl"))
    with zipfile.ZipFile(path) as file:
        file.extractall(out / "site")
    return out / "site"


def test_the_wheel_holds_recipes_examples_and_the_bundled_model(wheel):
    def files(folder):
        return {
            path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        }

    for ours, theirs in (
        ("recipes", "recipes"),
        ("examples", "examples"),
        ("src/livecc_hf/assets", "assets"),
        ("modeling", "modeling"),
        ("src/livecc_hf/serve", "serve"),
    ):
        assert files(wheel / "livecc_hf" / theirs) == files(ROOT / ours)
    assert (wheel / "livecc_hf/assets/livecc-tiny/modeling_livecc.py").read_text() == (
        ROOT / "modeling/modeling_livecc.py"
    ).read_text()


def run_installed(wheel, *argv, cwd):
    """`livecc` as the wheel has it."""
    command = [sys.executable, "-m", "livecc_hf.cli.main", *argv]
    env = os.environ | {"PYTHONPATH": str(wheel)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=120)


def test_recipes_are_found_by_name_in_the_wheel(wheel, tmp_path):
    code = (
        "import livecc_hf; from livecc_hf.assets.bundled_recipes import recipe_names, recipe_path\n"
        "print(livecc_hf.__file__, recipe_path('train', 'own-videos/lora'), recipe_path('data', 'my_videos.yaml'))\n"
        "print(recipe_names('train') + recipe_names('data'))"
    )
    env = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    lines = done.stdout.splitlines()
    package = wheel / "livecc_hf"
    names = ("__init__.py", "recipes/own-videos/lora.yaml", "recipes/data/my_videos.yaml")
    assert lines[0] == " ".join(str(package / name) for name in names), done.stderr
    assert lines[1] == repr(recipe_names("train") + recipe_names("data"))
    done = run_installed(wheel, "data", "build", "--recipe", "my_videos", cwd=tmp_path)
    assert done.stderr.startswith("livecc: error: input my-videos does not exist"), done.stderr


@pytest.mark.slow
def test_generation_code_is_written_from_the_wheel(wheel, tmp_path):
    done = run_installed(wheel, "generate-repo", "live", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "live/custom_generate/stream.py").is_file()
    assert (tmp_path / "live/README.md").is_file()


class TestRecipeNames:
    def test_are_those_of_the_folder(self):
        assert {"own-videos/lora", "livecc-7b/sft", "livecc-tiny/1-lists"} <= set(recipe_names("train"))
        assert {"my_videos", "pretrain", "sft"} <= set(recipe_names("data"))
        for task in ("train", "data"):
            for name in recipe_names(task):
                assert recipe_path(task, name).is_file()
        assert not {name for name in recipe_names("train") if name.startswith(("data/", "accelerate/", "serve/"))}

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (
                ["train", "--recipe", "own-videos/lor"],
                "no recipe 'own-videos/lor', did you mean own-videos/lora? there are ",
            ),
            (["train", "--recipe=zzz"], "there is no recipe 'zzz'; there are livecc-7b/pretrain, "),
            (["train", "--recipe"], "--recipe: expected a name; there are livecc-7b/pretrain, "),
            (
                ["train", "--recipe", "own-videos/lora", "--config", "a.yaml"],
                "--recipe and --config both name a recipe",
            ),
            (["data", "build", "--recipe", "my-video"], "did you mean my_videos? there are my_videos, pretrain, sft; "),
            (["data", "build", "--recipe", "sft", "--config", "a.yaml"], "--recipe and --config both name a recipe"),
        ],
    )
    def test_wrong_ones_list_what_there_is(self, argv, message, capsys):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not error.endswith("...\n")

    def test_stand_for_their_file(self):
        path = recipe_path("train", "own-videos/lora")
        argv = ["--recipe", "own-videos/lora", "inspect=4"]
        assert with_recipe_as_config("train", argv) == ["--config", str(path), "inspect=4"]
        assert with_recipe_as_config("train", ["--config", "a.yaml"]) == ["--config", "a.yaml"]
