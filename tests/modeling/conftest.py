"""Frames for streams; tests that need others make their own."""

import pytest


@pytest.fixture(scope="module")
def frames(load_frames):
    """(16, 3, 96, 130): 6 turns."""
    return load_frames("live_cc")[:16, :, :96, :130]
