"""lmms-eval: a model for it, and a task of LiveSports-3K CC. docs/evaluation.md says how both are used.

lmms-eval wants an older PyAV than this package does. Reading videos works with either, so the package is installed into
lmms-eval's environment without its dependencies. Nothing here is imported by the rest of the package.
"""

from __future__ import annotations

from pathlib import Path


def manifest():
    """Return what lmms-eval's registry of models takes: the entry point `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="livecc", chat_class_path="livecc_hf.evaluation.lmms.model.LiveCC", aliases=("livecc_hf",)
    )


def tasks_folder() -> Path:
    """Return the folder of tasks, for lmms-eval's `--include_path`."""
    return Path(__file__).parent / "tasks"
