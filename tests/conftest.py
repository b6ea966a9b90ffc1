"""Shared fixtures: the recorded behaviour of the reference implementation, and its tiny random checkpoint."""

import importlib
import json
import os
import runpy
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
_cache = tempfile.TemporaryDirectory(prefix="livecc-tests-")  # removed at exit
os.environ["HF_HOME"] = _cache.name

from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(__file__).parent / "data" / "reference"
TINY_RECIPE = Path(__file__).parents[1] / "recipes/livecc-tiny"


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are cores: many tests wait for a clock, a browser or another process."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests for a GPU where there is none, before their fixtures are made."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def same_threads():
    """What a test sets for PyTorch is not left to the next: sums depend on it to the last bit."""
    n_threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != n_threads:
        torch.set_num_threads(n_threads)


@pytest.fixture()
def load(monkeypatch):
    """A function that imports a benchmark by name."""
    folder = Path(__file__).parents[1] / "benchmarks"
    paths = [*folder.glob("*.py"), *folder.glob("*/*.py")]
    for part in sorted({str(path.parent) for path in paths}):
        monkeypatch.syspath_prepend(part)
    names = {path.stem for path in paths}
    for name in names & set(sys.modules):
        monkeypatch.delitem(sys.modules, name)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The recorded reference: JSON, frames, and a 0.87M-parameter checkpoint in the published layout."""
    return DATA


@pytest.fixture(scope="session")
def published_checkpoint() -> Path:
    return DATA / "checkpoint"


@pytest.fixture(scope="session")
def reference() -> dict:
    return json.loads((DATA / "reference.json").read_text())


@pytest.fixture(scope="session")
def load_frames():
    """A function from the name of a recorded file to its uint8 (T, 3, H, W) frames."""
    return lambda name: torch.from_numpy(np.load(DATA / f"{name}_frames.npz")["frames"])


@pytest.fixture(scope="session")
def processor(published_checkpoint):
    from livecc_hf.modeling import StreamingProcessor

    return StreamingProcessor.from_pretrained(published_checkpoint)


@pytest.fixture(scope="session")
def make_model(published_checkpoint):
    """A function from a position scheme to the tiny random model; each scheme is loaded once."""
    from livecc_hf.checkpoints.loading import load_model

    models = {}

    def make(scheme: str):
        if scheme not in models:
            models[scheme] = load_model(published_checkpoint, position_scheme=scheme)[0]
        return models[scheme]

    return make


@pytest.fixture(scope="session")
def warmup():
    """The names of the warm-up script."""
    before = list(sys.path)
    names = runpy.run_path(str(TINY_RECIPE / "warmup.py"))
    sys.path[:] = before
    return names


@pytest.fixture(scope="session")
def tiny_processor(warmup):
    return warmup["build_processor"]()


@pytest.fixture(scope="session")
def tiny_folder(warmup, tiny_processor, tmp_path_factory) -> Path:
    """Random weights in a model folder."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    warmup["build_model"](tiny_processor).save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder
