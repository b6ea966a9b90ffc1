"""A model and an adapter are pushed to a local Hub server, and loaded in a process without this package."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for _folder in (Path(__file__).parent, Path(__file__).parents[1]):
    sys.path.insert(0, str(_folder))
from hub_client import hub_environment, livecc
from hub_server import Repository, serve_hub
from test_contents import split

from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.checkpoints.adapters import save_adapter_files
from livecc_hf.checkpoints.loading import load_model_and_processor

# For a process of a user who has not installed this package.
BLOCKED = """
import sys
class _Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "livecc_hf": raise ModuleNotFoundError(name)
sys.meta_path.insert(0, _Blocked())
"""


def run_snippet(repository: Repository, url: str, folder: Path) -> list[str]:
    """Run the Python code of a repository's card in a folder with a `video.mp4`; return the lines it prints."""
    [code] = re.findall(r"```python\n(.*?)```", repository.files["README.md"].decode(), re.DOTALL)
    folder.mkdir()
    (folder / "video.mp4").symlink_to(demo_clip_path())
    (folder / "usage.py").write_text(BLOCKED + code)
    done = subprocess.run(
        [sys.executable, "usage.py"],
        env=hub_environment(url, folder / "home"), cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def said_of_the_clip(folder: Path, **options) -> list[str]:
    """Return a model's commentary on the clip, formatted as by the cards' code."""
    model, processor, _ = load_model_and_processor(folder, dtype=options.pop("dtype", None))
    return [f"{s.start_s:7.1f}s  {s.text}" for s in model.stream_generate(processor, demo_clip_path(), **options)]


def repository_of(folder: Path, visibility: str = "private") -> Repository:
    """Return a repository that holds a folder's files."""
    repository = Repository({"visibility": visibility})
    repository.commit({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    return repository


@pytest.fixture
def model(tmp_path) -> Path:
    return shutil.copytree(bundled_model_path(), tmp_path / "model")


@pytest.fixture
def hub():
    with serve_hub() as hub:
        yield hub


def test_a_push_replaces_old_files_keeps_others_and_is_verified(model, hub, tmp_path):
    (model / "optimizer.pt").write_bytes(b"pickle")
    hub.repositories["models/me/tiny"] = repository = repository_of(model)
    kept = {"handler.py": b"x = 3", ".eval_results/a.yaml": b"[]", "last-checkpoint/a_livecc.py": b"x = 2"}
    files = kept | {"old_livecc.py": b"x = 1"}
    repository.commit(repository.files | files)
    (model / "README.md").write_text((model / "README.md").read_text() + "\nMore.\n")
    done = livecc(hub.url, tmp_path / "home", "push", model, "me/tiny")
    assert done.returncode == 0, done.stderr
    sent, commit = repository.history[-2:]
    assert f'"revision": "{sent}"' in repository.files["README.md"].decode()
    assert done.stdout == f"{hub.url}/me/tiny {commit}\n"
    assert repository.sent == ["README.md", "README.md"]  # first with the repository's name, then with the commit
    assert "deleted in the repository: old_livecc.py" in done.stderr
    assert set(files) & set(repository.files) == set(kept)
    assert f"verified at {commit}: 82 tensors have the names, types and shapes" in done.stderr
    assert "loads without livecc-hf (LiveCCForConditionalGeneration, StreamingProcessor)" in done.stderr


@pytest.mark.slow
def test_the_snippet_of_a_pushed_models_card_runs_in_a_process_without_this_package(model, hub, tmp_path):
    done = livecc(hub.url, tmp_path / "home", "push", model, "me/tiny", "--verify", "full")
    assert done.returncode == 0, done.stderr
    assert "for grey frames it says" in done.stderr
    repository = hub.repositories["models/me/tiny"]
    sent, named = repository.history
    assert done.stdout == f"{hub.url}/me/tiny {named}\n"
    assert f'"revision": "{sent}"' in repository.files["README.md"].decode()
    assert f"the card's snippet names commit {sent}" in done.stderr
    kept = dict(repository.files)
    repository.commit({"README.md": kept["README.md"]})  # later commits do not affect a pinned one
    expected = said_of_the_clip(bundled_model_path(), dtype="bfloat16")
    assert run_snippet(repository, hub.url, tmp_path / "reader") == expected
    assert len({line[10:] for line in expected}) > 3


@pytest.mark.slow
def test_a_snippet_names_the_commit_until_the_loaded_files_change(model, hub, tmp_path):
    def push():
        done = livecc(hub.url, tmp_path / "home", "push", model, "me/tiny", "--no-verify")
        assert done.returncode == 0, done.stderr
        return re.findall(r'"revision": "(\w+)"', repository.files["README.md"].decode()), done.stderr

    repository = hub.repositories["models/me/tiny"] = Repository({"visibility": "private"})
    (first,), _ = push()
    assert first == repository.history[0] and len(repository.history) == 2
    assert push()[0] == [first] and len(repository.history) == 2  # nothing has changed, so there is no commit
    (model / "README.md").write_text((model / "README.md").read_text() + "\nMore.\n")
    assert push()[0] == [first] and len(repository.history) == 3  # only the card has changed
    # The next push completes one that was interrupted between its two commits.
    repository.commit(repository.files | {"generation_config.json": b"{}"})
    (model / "generation_config.json").write_text("{}")
    (cut,), said = push()
    assert cut == repository.history[3] and "nothing has changed" in said
    (model / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    repository.commit(repository.files | {"README.md": b"# no head"})
    assert push()[0] == [] and len(repository.history) == 7  # a card without the placeholder is sent unchanged


@pytest.mark.slow
def test_an_interrupted_push_is_continued(model, hub, tmp_path):
    files = split(model)
    hub.large = 1_000_000  # both weight files are stored as large files
    sent: list[str] = []

    def breaks(method: str, path: str) -> bool:
        if not path.startswith("/objects/"):
            return False
        sent.append(path)
        return len(set(sent)) > 1  # the second file never arrives

    hub.breaks = breaks
    options = ("push", model, "me/tiny", "--no-verify")
    alone = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    first = livecc(hub.url, tmp_path / "home", *options, **alone)
    assert first.returncode == 2 and "Traceback" not in first.stderr, first.stderr
    assert "the connection broke" in first.stderr and "run the same command again to continue" in first.stderr
    assert len(hub.objects) == 1
    assert not hub.repositories["models/me/tiny"].files
    hub.breaks = lambda method, path: sent.append(path) is not None
    sent.clear()
    again = livecc(hub.url, tmp_path / "home", *options, **alone)
    assert again.returncode == 0, again.stderr
    assert len([path for path in sent if path.startswith("/objects/")]) == 1  # the first file is not sent again
    assert set(files) <= set(hub.repositories["models/me/tiny"].files)


@pytest.fixture
def adapter(tmp_path) -> Path:
    """An adapter whose base is a local folder."""
    peft = pytest.importorskip("peft")
    base = shutil.copytree(bundled_model_path(), tmp_path / "base")
    model, processor, _ = load_model_and_processor(base)
    config = model.config
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path / "adapter")
    save_adapter_files(tmp_path / "adapter", config, processor, base)
    return tmp_path / "adapter"


@pytest.mark.slow
def test_an_adapter_is_sent_with_the_hub_id_of_its_base(adapter, hub, tmp_path):
    home = tmp_path / "home"
    refused = livecc(hub.url, home, "push", adapter, "me/lora", "--license", "mit")
    assert refused.returncode == 2
    assert f"names its base by a local path, {tmp_path}/base: give the base's Hub id" in refused.stderr
    assert not hub.requests
    words = ("push", adapter, "me/lora", "--license", "mit", "--base-id", "me/base", "--verify", "full")
    gone = livecc(hub.url, home, *words)
    assert gone.returncode == 2
    assert "the adapter's base me/base is not on the Hub, or your token cannot read it" in gone.stderr
    assert not hub.repositories
    hub.repositories["models/me/base"] = repository_of(tmp_path / "base")
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    done = livecc(hub.url, home, *words)
    assert done.returncode == 0, done.stderr
    assert "for grey frames it says" in done.stderr
    files = hub.repositories["models/me/lora"].files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    card = files["README.md"].decode()
    assert "base_model: me/base" in card and "base_model_relation: adapter" in card and "license: mit" in card
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]  # no local path
    assert "livecc merge me/lora merged" in card
    expected = said_of_the_clip(tmp_path / "adapter", dtype="float32")
    assert run_snippet(hub.repositories["models/me/lora"], hub.url, tmp_path / "reader") == expected
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    beside = livecc(hub.url, home, "push", tmp_path / "base", "me/lora")
    assert beside.returncode == 2
    assert "me/lora holds a adapter" not in beside.stderr
    assert "me/lora holds an adapter, which would be loaded together with a model" in beside.stderr


@pytest.mark.slow
def test_the_snippet_of_a_merged_models_card_runs(adapter, hub, tmp_path):
    home = tmp_path / "home"
    merged = livecc(hub.url, home, "merge", adapter, tmp_path / "merged")
    assert (merged.returncode, merged.stderr) == (0, f"wrote {tmp_path / 'merged'}\n")
    done = livecc(hub.url, home, "push", tmp_path / "merged", "me/merged", "--license", "mit")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["models/me/merged"]
    assert f'"revision": "{repository.history[0]}"' in repository.files["README.md"].decode()
    expected = said_of_the_clip(tmp_path / "merged")
    assert run_snippet(repository, hub.url, tmp_path / "reader") == expected


@pytest.mark.slow
def test_different_weights_in_the_repository_are_noticed(model, hub, tmp_path):
    """The server returns an older file than that of the commit."""
    hub.repositories["models/me/tiny"] = repository_of(model)
    data = (model / "model.safetensors").read_bytes()
    name = b"model.language_model.norm.weight"
    assert data.count(name) == 1

    def altered(method: str, path: str) -> bool:
        if method == "GET" and "/tree/" in path and any("preupload" in asked for asked in hub.requests):
            tree = hub.repositories["models/me/tiny"].files
            tree["model.safetensors"] = data.replace(name, name[:-1] + b"T")
        return False

    hub.breaks = altered
    done = livecc(hub.url, tmp_path / "home", "push", model, "me/tiny")
    assert done.returncode == 2
    assert "model.safetensors at me/tiny@" in done.stderr and "differs from the one sent: model.lang" in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error(model, hub, tmp_path):
    """Verifying with weights downloads more than fits on the disk."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "from livecc_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "push", str(model), "me/tiny", "--verify", "full"],
        env=hub_environment(hub.url, tmp_path / "home"),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "the disk of" in done.stderr and "is full" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_generation_code_is_pushed_to_a_separate_repository(hub, tmp_path):
    folder = tmp_path / "generate"
    (folder / "custom_generate").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [custom_generate]\n---\n# Live\n")
    (folder / "custom_generate" / "helper.py").write_text("WORD = 'goal'\n")
    code = folder / "custom_generate" / "generate.py"
    code.write_text("from .helper import WORD\n\n\ndef generate(model, **keywords):\n    return WORD\n")
    done = livecc(hub.url, tmp_path / "home", "push", folder, "me/live")
    assert done.returncode == 0, done.stderr
    files = hub.repositories["models/me/live"].files
    assert set(files) == {"README.md", "custom_generate/generate.py", "custom_generate/helper.py"}
    assert "loads without livecc-hf (generate)" in done.stderr
    code.write_text("from livecc_hf import x\n\n\ndef generate(model, **keywords):\n    return x\n")
    refused = livecc(hub.url, tmp_path / "home", "push", folder, "me/live")
    assert refused.returncode == 2
    assert "generate does not load without livecc-hf" in refused.stderr
