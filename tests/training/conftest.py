"""A random livecc-tiny to train on."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

RECIPE = Path(__file__).parents[2] / "recipes/livecc-tiny"


@pytest.fixture(scope="session")
def warmup():
    """The names of the warm-up script."""
    before = list(sys.path)
    names = runpy.run_path(str(RECIPE / "warmup.py"))
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
