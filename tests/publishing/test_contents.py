"""Which files of a folder are published, and what is refused before the Hub is contacted."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import RepoCard
from safetensors.torch import load_file, save_file

from livecc_hf.assets import bundled_model_path
from livecc_hf.cli.main import main
from livecc_hf.publishing.cards import with_base
from livecc_hf.publishing.checks import Checked
from livecc_hf.publishing.contents import ADAPTER, Contents, read_contents
from livecc_hf.publishing.hub import PushError, Target
from livecc_hf.publishing.push import PushOptions, describe_plan, plan_push
from livecc_hf.publishing.weights import read_tensors


@pytest.fixture
def model(tmp_path) -> Path:
    return shutil.copytree(bundled_model_path(), tmp_path / "model")


def test_other_files_of_a_training_run_are_not_sent(model):
    (model / "checkpoint-2").mkdir()
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json", "inspect.png", "notes.md", "my_key.json"):
        (model / name).write_text("mine")
    (model / "checkpoint-2" / "model.safetensors").write_text("mine")
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text("")
    (model / "shown.png").write_text("picture")
    (model / ".eval_results").mkdir()
    (model / ".eval_results" / "ovo.yaml").write_text("[]")
    (model / "lost.safetensors").symlink_to(model / "nowhere")
    with (model / "README.md").open("a") as card:
        card.write("\n![what it sees](./shown.png), not reinspect.png\n")
    contents = read_contents(model)
    expected = {path.name for path in bundled_model_path().iterdir()} | {"shown.png", ".eval_results/ovo.yaml"}
    assert set(contents.files) == expected
    assert contents.left_out == {
        "checkpoint-2/model.safetensors": "it belongs to a checkpoint",
        "custom_generate/generate.py": ("it would replace the model's own generate: push it to a separate repository"),
        "inspect.png": "the card does not show it",
        "lost.safetensors": "it is a broken link",
        "my_key.json": "it is not part of a model",
        "notes.md": "it is not part of a model",
        "optimizer.pt": "it is a pickle (optimizer state, arguments or weights): loading it runs code",
        "trainer_state.json": "it is the state of a training run",
        "training_args.bin": "it is a pickle (optimizer state, arguments or weights): loading it runs code",
    }


def test_a_card_in_another_encoding_is_a_clear_error(model):
    (model / "README.md").write_bytes("---\nlicense: mit\n---\n# Fußball\n".encode("latin-1"))
    with pytest.raises(
        PushError, match=r"README.md is not UTF-8 \(invalid continuation byte at byte 25\): save it as UTF-8"
    ):
        plan_push(model, "me/x", PushOptions())


def test_left_out_files_of_a_folder_share_a_line():
    left_out = {
        "checkpoint-2/a": "old",
        "checkpoint-2/b/c": "old",
        "checkpoint-2/d": "a pickle",
        "e": "old",
        "f": "old",
    }
    plan = Checked(Contents(Path("m"), "model", {"README.md": 5}, left_out))
    assert [line for line in describe_plan(plan, Target("me/x")) if "not sent" in line] == [
        "not sent: 2 files of checkpoint-2/ (old)",
        "not sent: checkpoint-2/d (a pickle)",
        "not sent: e (old)",
        "not sent: f (old)",
    ]


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


NO_MODELS = {
    "nothing": ({}, "cannot be pushed: expected config.json with model*.safetensors (a model)"),
    "dataset": ({"README.md": "", "data__a.parquet": ""}, "is a dataset, not a model: `livecc data push"),
    "qwen": ({"config.json": '{"model_type": "qwen2_vl"}'}, "holds a model of type 'qwen2_vl' without LiveCC's code"),
    "no json": ({"config.json": "{"}, "config.json cannot be read"),
    "list": ({"config.json": "[]"}, "holds a model of type None"),
    "no weights": ({"config.json": '{"model_type": "livecc"}'}, "it holds no weights; expected model.safetensors"),
    "pickles": (
        {"config.json": '{"model_type": "livecc"}', "pytorch_model.bin": ""},
        "its weights are pickles, which run code when they are loaded",
    ),
    "adapter": ({"adapter_config.json": "{}"}, "is an adapter without its weights"),
    "run": ({"checkpoint-9__model.safetensors": "", "checkpoint-10__model.safetensors": ""}, "/checkpoint-10"),
    "space": ({"README.md": "---\nsdk: gradio\n---\n"}, "has no app.py, the file that the Space runs"),
    "sdk": ({"README.md": "---\nsdk: streamlit\n---\n"}, "says sdk: streamlit: expected gradio, docker or static"),
    "code": ({"README.md": "---\nsdk: gradio\n---\n", "app.py": "def ("}, "app.py is not Python"),
    "local model": ({"README.md": "---\nsdk: static\nmodels: [/data/x]\n---\n"}, "names '/data/x' as models"),
}


@pytest.mark.parametrize("case", NO_MODELS)
def test_a_folder_that_cannot_be_pushed_is_a_clear_error(tmp_path, case):
    files, message = NO_MODELS[case]
    write(tmp_path / "folder", **files)
    with pytest.raises(PushError) as raised:
        plan_push(tmp_path / "folder", "me/x", PushOptions())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_or_missing_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for name, what in (("file", "is a file"), ("none", "does not exist")):
        with pytest.raises(PushError, match=f"{name} {what}: expected a model folder"):
            plan_push(tmp_path / name, "me/x", PushOptions())


@pytest.mark.parametrize("name", ["mine", "a/b/c", "me/a--b", "me/ä", "/x", "https://huggingface.co/me/x", "me/x.git"])
def test_an_invalid_name_is_refused(model, name):
    with pytest.raises(PushError, match=r"is not a repository name.*expected USER/NAME"):
        plan_push(model, name, PushOptions())


CARDS = {
    "none": (None, {}, "has no README.md: write a card"),
    "no head": ("# Mine\n", {}, "names no licence: add license: to its metadata, or give --license apache-2.0"),
    "no yaml": ("---\nlicense: [\n---\n", {}, "the metadata between the --- lines is not valid YAML"),
    "other": ("---\nlicense: other\n---\n", {}, "has license: other, which needs license_name and license_link"),
    "option": ("---\n---\n", {"license": "My own!"}, "--license My own! is not a licence identifier"),
    "base number": ("---\nlicense: mit\nbase_model: 5\n---\n", {}, "names 5 as base_model, which is not a Hub id"),
    "base": ("---\nlicense: mit\nbase_model: /data/x\n---\n", {}, "as base_model, which is not a Hub id"),
    "base id": ("---\nlicense: mit\n---\n", {"base_id": "x"}, "--base-id x is not a Hub id"),
}


@pytest.mark.parametrize("case", CARDS)
def test_a_card_without_required_facts_is_refused(model, case):
    text, options, message = CARDS[case]
    (model / "README.md").unlink()
    if text is not None:
        (model / "README.md").write_text(text)
    with pytest.raises(PushError) as raised:
        plan_push(model, "me/x", PushOptions(**options))
    assert message in str(raised.value)


def split(model: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Split a model's weights into two files with an index, and return the tensors of each file."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {f"model-0000{n + 1}-of-00002.safetensors": {name: tensors[name] for name in names[n::2]} for n in range(2)}
    for file, held in files.items():
        save_file(held, model / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in files.items() for name in held}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


def test_incomplete_shards_are_refused(model):
    files = split(model)
    read = read_tensors(read_contents(model))
    assert {file: set(tensors) for file, tensors in read.items()} == {file: set(held) for file, held in files.items()}
    first, second = (model / name for name in files)
    kept = second.read_bytes()
    second.write_bytes(kept[:-100])
    with pytest.raises(PushError, match=rf"{second.name} is damaged or truncated"):
        read_tensors(read_contents(model))
    second.unlink()
    with pytest.raises(PushError, match=rf"index.json names {second.name}, which is not in the folder"):
        read_tensors(read_contents(model))
    second.write_bytes(first.read_bytes())
    with pytest.raises(PushError, match=rf"says that \S+ is in {second.name}, which does not hold it"):
        read_tensors(read_contents(model))
    second.write_bytes(kept)
    (model / "model-00003-of-00003.safetensors").write_bytes(kept)
    with pytest.raises(PushError, match=r"does not name model-00003-of-00003"):
        read_tensors(read_contents(model))
    (model / "model.safetensors.index.json").write_text('{"weight_map": ["x"]}')
    with pytest.raises(PushError, match=r"index\.json cannot be read"):
        read_tensors(read_contents(model))
    (model / "model.safetensors.index.json").unlink()
    with pytest.raises(PushError, match=r"3 weight files but no model.safetensors.index.json"):
        read_tensors(read_contents(model))


def test_a_folder_without_the_models_code_is_refused(model):
    for path in model.glob("*.py"):
        path.unlink()
    with pytest.raises(PushError, match=r"does not contain the model's code"):
        plan_push(model, "me/x", PushOptions())


def test_code_that_needs_this_package_is_refused(model):
    code = model / "configuration_livecc.py"
    text = code.read_text()
    code.unlink()  # a link to the package's file
    code.write_text(text + "\nimport livecc_hf.cli\n")
    with pytest.raises(PushError, match=r"model does not load without livecc-hf: .*livecc_hf"):
        plan_push(model, "me/x", PushOptions())


@pytest.mark.slow
@pytest.mark.parametrize(("old", "path"), [("./runs/base", "me/base"), ("base", "./runs/base")])
def test_a_base_is_replaced_in_a_card_only_where_it_is_named(tmp_path, old, path):
    text = "On `base`, path/to/base or ./runs/base; its base may be ./runs/base-2.\n"
    card = RepoCard(f"---\nlicense: mit\n---\n{text}")
    assert with_base(Contents(tmp_path, ADAPTER, {}, {}), card, "me/base", old)
    assert card.text == f"On `me/base`, me/base or {path}; its base may be ./runs/base-2.\n"
    assert (card.data["base_model"], card.data["base_model_relation"]) == ("me/base", "adapter")


def test_an_uploaded_card_keeps_the_line_ends_of_the_folders(model, tmp_path):
    (model / "README.md").write_bytes((model / "README.md").read_bytes().replace(b"\n", b"\r\n"))
    plan, _ = plan_push(model, "me/x", PushOptions(license="mit"))
    (tmp_path / "copy").mkdir()
    plan.copy_to(tmp_path / "copy")
    sent = (tmp_path / "copy" / "README.md").read_bytes()
    assert b"license: mit\r\n" in sent and sent.count(b"\n") == sent.count(b"\r\n")


def test_a_missing_token_is_said_before_the_folder_is_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["push", str(tmp_path / "none"), "me/x"]) == 2
    assert "there is no token for the Hub" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "none"), "me/x", "--dry-run"]) == 2
    assert "none does not exist" in capsys.readouterr().err


def test_a_given_licence_is_written_into_the_upload_and_not_into_the_folder(model, tmp_path):
    before = (model / "README.md").read_text()
    plan, target = plan_push(model, "me/x", PushOptions(license="mit", base_id="me/base"))
    (tmp_path / "copy").mkdir()
    sent = plan.copy_to(tmp_path / "copy")
    assert set(sent.files) == set(plan.contents.files)
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "license: mit" in card and "base_model: me/base" in card and "knows nothing about" in card
    assert (model / "README.md").read_text() == before
    lines = "\n".join(describe_plan(plan, target))
    n_files = len(list(model.glob("*.py")))
    assert n_files > 10 and f"{n_files} files *.py" in lines
    assert "README.md  (rewritten)" in lines and "model me/x, main" in lines
