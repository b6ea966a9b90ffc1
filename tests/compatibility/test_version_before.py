"""What version 0.1.0 wrote still loads, resumes and goes on; what its pages imported can be imported.

Where a module has moved, its old name stands in `livecc_hf.utils.moved`.
"""

import importlib
import json
import os
import subprocess
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import livecc_hf
from livecc_hf.cli.main import main
from livecc_hf.utils.moved import MOVED

ARCHIVE = Path(__file__).parents[1] / "data/version_0_1/folders.zip"
MANIFEST_TIME_S = 1_700_000_000


def read(name: str) -> str:
    """A text file of the archive."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return archive.read(name).decode()


EXPECTED = json.loads(read("expected.json"))
IMPORTS = read("imports.txt").splitlines()


@pytest.fixture()
def home(tmp_path, monkeypatch) -> Path:
    """The folders, unpacked where the test works."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    os.utime(tmp_path / "videos.jsonl", (MANIFEST_TIME_S, MANIFEST_TIME_S))
    build = tmp_path / "data_run/build.json"
    build.write_text(build.read_text().replace("@HERE@", str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Also run by itself, where the package cannot be imported.
COMMENTARY = """
def commentary(model, processor):
    import torch
    frames = torch.randint(0, 256, (10, 3, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stream = model.start_stream(processor, query="What is shown?", do_sample=False, max_new_tokens=6)
    return [[s.start_s, s.end_s, s.text, list(s.token_ids)] for s in stream.push(frames) + stream.finish()]
"""
exec(COMMENTARY)  # defines `commentary`


@pytest.mark.parametrize("name", ["checkpoint", "adapter"])
def test_a_model_says_what_it_said(home, name):
    from livecc_hf import load_model_and_processor

    if name == "adapter":
        pytest.importorskip("peft")
    model, processor, _ = load_model_and_processor(name)
    assert commentary(model, processor) == EXPECTED[name]  # noqa: F821


def test_auto_classes_load_the_checkpoint_with_the_packages_code(home):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained("checkpoint").eval()
    processor = AutoProcessor.from_pretrained("checkpoint")
    assert isinstance(model, livecc_hf.modeling.LiveCCForConditionalGeneration)
    assert commentary(model, processor) == EXPECTED["checkpoint"]  # noqa: F821


def test_the_checkpoint_brings_its_own_code(home):
    code = """
        import json, sys
        sys.modules["livecc_hf"] = None
        from transformers import AutoModel, AutoProcessor
        model = AutoModel.from_pretrained("checkpoint", trust_remote_code=True).eval()
        processor = AutoProcessor.from_pretrained("checkpoint", trust_remote_code=True)
        print(json.dumps([type(model).__module__, commentary(model, processor)]))
    """
    environment = os.environ | {"HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMENTARY + textwrap.dedent(code)]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    module, said = json.loads(done.stdout.splitlines()[-1])
    assert module.startswith("transformers_modules.checkpoint")
    assert said == EXPECTED["checkpoint"]


def test_a_checkpoint_that_is_saved_again_has_todays_code_alone(home):
    """Files of a code that no longer belongs to it would be loaded by nobody, or worse, by the old names."""
    from livecc_hf import load_model_and_processor

    model, processor, _ = load_model_and_processor("checkpoint")
    model.save_pretrained("again")
    processor.save_pretrained("again")
    modules = {reference.partition(".")[0] for reference in model.config.auto_map.values()}
    assert all((home / "again" / f"{module}.py").is_file() for module in modules)


def test_the_training_run_is_resumed_to_its_end(home):
    pytest.importorskip("trl")
    assert main(["train", "--config", "train.yaml", "--resume"]) in (0, None)
    state = json.loads((home / "training_run/checkpoint-6/trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses == pytest.approx(EXPECTED["training"]["losses"], abs=1e-4)
    skipped = (home / "training_run/skipped.jsonl").read_text().splitlines()
    where = [[(entry["step"], entry["index"], entry["reason"]) for entry in map(json.loads, lines)]
             for lines in (skipped, EXPECTED["training"]["skipped"])]  # fmt: skip
    assert where[0] == where[1]


def test_what_the_training_run_pickled_can_be_read(home):
    arguments = torch.load("training_run/checkpoint-2/training_args.bin", weights_only=False)
    assert (type(arguments).__name__, arguments.max_steps) == ("SFTConfig", 6)


def test_the_data_run_goes_on_to_its_end_and_does_nothing_twice(home):
    pq = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("gcld3")
    finished = {path: path.stat().st_mtime_ns for path in home.glob("data_run/units/0*/*")}
    assert len(finished) == 2 * 3
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", *sys.path])}
    command = [sys.executable, "-m", "livecc_hf.cli.main", "data", "build", "--config", "build.yaml"]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "continuing after 2 finished units" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(home.glob("data_run/units/0*"))) == 4
    files = sorted(home.glob("data_run/dataset/data/*.parquet"))
    assert [row["id"] for file in files for row in pq.read_table(file).to_pylist()] == EXPECTED["data"]["clips"]
    dropped = pq.read_table(home / "data_run/dropped.parquet", columns=["id", "stage", "reason"]).to_pylist()
    assert dropped == EXPECTED["data"]["dropped"]


@pytest.mark.parametrize("line", IMPORTS)
def test_what_pages_imported_can_be_imported(line):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(line, {})


class TestOldNames:
    """Of a module that has moved, in a process that imports nothing else."""

    @pytest.mark.parametrize(("old", "new"), MOVED.items())
    def test_are_the_module_under_its_new_name(self, old, new):
        path = Path(livecc_hf.__file__).parent.joinpath(*old.split("."))
        assert not path.exists() and not path.with_suffix(".py").exists()  # it would be found first
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = importlib.import_module(f"livecc_hf.{old}")
        assert found is importlib.import_module(f"livecc_hf.{new}")
        assert (found.__name__, found.__spec__.name) == (f"livecc_hf.{new}", f"livecc_hf.{new}")

    def test_say_what_to_write_instead(self):
        code = "from livecc_hf.overlay import OverlayWriter; import sys; assert 'torch' not in sys.modules"
        command = [sys.executable, "-W", "default", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        said = "<string>:1: DeprecationWarning: livecc_hf.overlay is now livecc_hf.rendering.overlay"
        assert said in done.stderr

    def test_that_never_were_are_not_found(self):
        with pytest.raises(ModuleNotFoundError, match="livecc_hf.loadin"):
            importlib.import_module("livecc_hf.loadin")
