"""Frames for pools, and the model that they share."""

import pytest


@pytest.fixture(scope="module")
def frames(load_frames):
    """(28, 3, 96, 130): 12 turns."""
    return load_frames("live_cc")[:28, :, :96, :130]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("mrope")
