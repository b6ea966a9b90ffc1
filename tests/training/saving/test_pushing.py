"""Runs that send their checkpoints and their model to a Hub on this machine."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

for _folder in (Path(__file__).parents[2], Path(__file__).parents[2] / "publishing"):
    sys.path.insert(0, str(_folder))
from hub_client import livecc
from hub_server import Repository, serve_hub

from livecc_hf.publishing.hub import PushError
from livecc_hf.training.options.recipe import parse
from livecc_hf.training.saving.pushing import RunPush
from livecc_hf.training.script import main

LORA = {"use_peft": True, "lora_r": 4, "optimizer": "trainer", "train_parts": ["language_model"]}
PUSH = {"push_to_hub": True, "hub_model_id": "me/run", "hub_license": "mit"}
STEPS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub_license": "mit"}, "hub_license is given, but push_to_hub is off"),
        (PUSH | {"hub_merged": True}, "hub_merged is on, but use_peft is off"),
        (PUSH | {"hub_model_id": "me/my run"}, r"'me/my run' is not a repository name"),
        (PUSH | {"hub_license": "Apache 2"}, "^hub_license Apache 2 is not a licence identifier: expected one such as"),
        (PUSH | LORA | {"hub_base_id": "base"}, "^hub_base_id base is not a Hub id"),
        (PUSH | LORA, r"would publish an adapter on the folder .*: give the base's Hub id as hub_base_id"),
    ],
)
def test_what_could_not_be_pushed_is_said_before_training(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        parse(["--config", recipe(**changes)])


def test_a_missing_token_is_said_before_data_are_read(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(PushError, match="there is no token for the Hub"):
        main(["--config", recipe(**PUSH, data=[{"source": "folder", "path": "nowhere"}])])


def test_options_of_a_push_without_one_are_said_to_have_no_effect(recipe):
    (note,) = parse(["--config", recipe(hub_model_id="me/run")]).notes
    assert "hub_model_id (push_to_hub is off)" in note


def test_a_checkpoint_that_cannot_be_published_is_a_warning(recipe, tiny_folder, tmp_path, caplog):
    """Its card names the base's base, by a path that only its maker has."""
    checkpoint = shutil.copytree(tiny_folder, tmp_path / "out/checkpoint-1")
    (checkpoint / "README.md").write_text("---\nlicense: mit\nbase_model: ./mine\n---\n")
    given = parse(["--config", recipe(**PUSH)])
    assert RunPush(given.ours, given.training, given.model).push_checkpoint(checkpoint, 1) == []
    assert "training in progress, step 1 was not pushed: " in caplog.text and "./mine" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-1"]


def test_what_a_killed_run_had_staged_is_removed(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for name in (".push-x1y2", "checkpoint-1"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "optimizer.pt").touch()
    given = parse(["--config", recipe(**PUSH)])
    with pytest.raises(PushError, match="there is no token"):
        RunPush(given.ours, given.training, given.model).prepare()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-1"]


@pytest.fixture
def hub(tiny_folder):
    with serve_hub() as hub:
        base = hub.repositories["models/me/base"] = Repository({"visibility": "private"})
        base.commit({path.name: path.read_bytes() for path in tiny_folder.iterdir()})
        yield hub


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_a_full_run_pushes_checkpoints_and_its_model(recipe, hub, tmp_path):
    path = recipe(**PUSH, **STEPS, hub_strategy="checkpoint", hub_always_push=True)
    done = livecc(hub.url, tmp_path / "home", "train", "--config", path)
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["models/me/run"]
    assert repository.visibility == "private"
    assert repository.messages[0] == "Training in progress, step 1"
    assert "Training in progress, step 2, checkpoint" in repository.messages
    assert "nothing has changed: nothing was sent" in done.stderr  # the end is the last checkpoint
    files = repository.files
    kept = {name for name in files if "/" not in name}
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "modeling_livecc.py"} <= kept
    assert kept <= names(tmp_path / "out")
    assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert not [name for name in kept if name.endswith((".bin", ".pt", ".pth"))]
    assert {"last-checkpoint/optimizer.pt", "last-checkpoint/livecc_run.json"} <= set(files)
    assert "license: mit" in files["README.md"].decode() and "Fine-tuned from" in files["README.md"].decode()
    assert re.search(r"verified at [0-9a-f]{40}: loads without livecc-hf \(LiveCCForConditionalGen", done.stderr)
    assert not list((tmp_path / "out").glob(".push-*"))


@pytest.mark.slow
def test_an_adapters_run_pushes_it_with_its_bases_id(recipe, hub, tmp_path):
    done = livecc(
        hub.url, tmp_path / "home", "train", "--config", recipe(**LORA, **PUSH, **STEPS, hub_base_id="me/base")
    )
    assert done.returncode == 0, done.stderr
    files = hub.repositories["models/me/run"].files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    assert "base_model: me/base" in files["README.md"].decode() and "livecc merge" in files["README.md"].decode()
    assert {"adapter_model.safetensors", "config.json", "processor_config.json", "modeling_livecc.py"} <= set(files)
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]
    assert "loads without livecc-hf (LiveCCForConditionalGeneration" in done.stderr


@pytest.mark.slow
def test_a_merged_model_is_pushed_in_the_adapters_place(recipe, hub, tmp_path):
    done = livecc(hub.url, tmp_path / "home", "train", "--config", recipe(**LORA, **PUSH, **STEPS, hub_merged=True))
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["models/me/run"]
    assert repository.messages == ["Model save", "Name the commit in the card's snippet"]
    assert "adapter_config.json" not in repository.files and "merged into" in repository.files["README.md"].decode()
    merged = tmp_path / "out" / "merged" / "model.safetensors"
    assert repository.files["model.safetensors"] == merged.read_bytes()


@pytest.mark.slow
def test_a_repository_that_cannot_be_pushed_to_ends_the_run_before_it_begins(recipe, hub, tmp_path):
    hub.repositories["models/me/run"] = Repository({"visibility": "public"})
    done = livecc(hub.url, tmp_path / "home", "train", "--config", recipe(**PUSH, **STEPS))
    assert done.returncode == 2
    message = done.stderr.splitlines()[-1]
    assert "model me/run is public, and so would be the files: give hub_private_repo=false to confirm" in message
    assert not list((tmp_path / "out").glob("checkpoint-*"))
