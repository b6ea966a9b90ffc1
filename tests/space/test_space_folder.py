"""The folder written by `livecc space`: its contents, that `livecc push` uploads all of it, and errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from livecc_hf.cli.main import main
from livecc_hf.publishing.checks import check_folder
from livecc_hf.publishing.hub import Target
from livecc_hf.publishing.push import describe_plan
from livecc_hf.space.folder import write_space

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_server import serve_hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_space(tmp_path_factory.mktemp("spaces") / "space", "me/tiny", check=False)


def test_the_card_names_the_model_and_how_it_runs(folder):
    card = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert card["models"] == ["me/tiny"]
    assert (card["sdk"], card["app_file"], card["license"]) == ("gradio", "app.py", "apache-2.0")
    assert len(card["short_description"]) <= 60


def test_app_py_is_short_and_names_the_model(folder):
    text = (folder / "app.py").read_text()
    assert len(text.splitlines()) <= 60
    assert '"me/tiny"' in text


def test_only_published_packages_are_required(folder):
    names = [Requirement(line).name for line in (folder / "requirements.txt").read_text().splitlines()]
    assert {"torch", "transformers", "fastapi", "spaces"} <= set(names)
    assert "livecc-hf" not in names
    assert len(names) == len(set(names))


def test_peft_is_required_if_nobody_looked_whether_the_model_is_an_adapter(folder):
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("peft>=") for line in lines)


def test_the_whole_folder_is_pushed(folder):
    plan = check_folder(folder)
    lines = describe_plan(plan, Target("me/live", "space"))
    assert len(lines) < 10 and any(re.fullmatch(r" +\S+ \wB  livecc_hf/, \d+ files", line) for line in lines)
    assert plan.space_sdk == "gradio"
    assert not plan.contents.left_out
    assert {"app.py", "requirements.txt", "livecc_hf/modeling/modeling_livecc.py", "livecc_hf/serve/app.py"} <= set(
        plan.contents.files
    )
    assert "livecc_hf/assets/demo/clip.mp4" in plan.contents.files


def test_its_copy_of_the_package_needs_nothing_else(folder):
    """Everything that runs there: the page, and loading a model or an adapter."""
    code = (
        "import sys, livecc_hf.space.serving, livecc_hf.checkpoints.merge\n"
        "modules = [module for name, module in sys.modules.items() if name.startswith('livecc_hf.')]\n"
        "print(*{getattr(module, '__file__', None) for module in modules} - {None}, sep='\\n')"
    )
    env = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    # An editable installation would provide modules that the folder lacks.
    assert [path for path in done.stdout.splitlines() if not path.startswith(str(folder))] == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tiny", "--model tiny is not a Hub id: expected USER/NAME"),
        ("a/b/c", "--model a/b/c is not a Hub id: expected USER/NAME"),
        ("me/ti ny", "--model me/ti ny is not a Hub id: expected USER/NAME"),
        ("", "--model is empty: expected USER/NAME"),
        (".", ". is a folder, which a Space cannot reach: push it first, and give its USER/NAME"),
    ],
)
def test_an_invalid_id_is_refused(model, message, tmp_path, capsys):
    assert main(["space", str(tmp_path / "out"), "--model", model]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_blank_title_is_refused_and_any_other_is_one_line(tmp_path, capsys):
    assert main(["space", str(tmp_path / "out"), "--model", "me/tiny", "--no-check", "--title", " "]) == 2
    assert "--title is empty: give a title, or leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    card = (write_space(tmp_path / "out", "me/tiny", "a: b\n# c", check=False) / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["title"] == "a: b # c"
    assert "\n# a: b # c\n" in card


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["space", str(tmp_path), "--model", "me/tiny", "--no-check"]) == 2
    assert f"{tmp_path} exists and is not an empty folder: choose another, or remove it\n" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def _asked(endpoint, out):
    command = [sys.executable, "-m", "livecc_hf.cli.main", "space", str(out), "--model", "me/absent"]
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def test_a_model_that_is_not_on_the_hub_is_an_error(tmp_path):
    with serve_hub() as hub:
        done = _asked(hub.url, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("livecc: error: the Hub has no model me/absent that you may read"), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_hub_that_does_not_answer_is_an_error(tmp_path):
    done = _asked("http://127.0.0.1:9", tmp_path / "out")
    assert done.returncode == 2
    assert "the Hub cannot be asked for me/absent" in done.stderr
    assert "--no-check" in done.stderr
    assert done.stderr.count("\n") == 1
