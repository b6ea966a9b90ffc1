"""The model `livecc` and the task `livesports3k_cc` for lmms-eval; see docs/evaluation.md for their use.

lmms-eval requires an older PyAV than this package. Video reading works with both versions, so install this package into
lmms-eval's environment without its dependencies. The rest of the package does not import this module.
"""

from __future__ import annotations

from pathlib import Path


def manifest():
    """Return the manifest of the model for lmms-eval's registry (entry point `lmms_eval.models`)."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="livecc", chat_class_path="livecc_hf.evaluation.lmms.model.LiveCC", aliases=("livecc_hf",)
    )


def tasks_folder() -> Path:
    """Return the folder of tasks, for lmms-eval's `--include_path`."""
    return Path(__file__).parent / "tasks"
