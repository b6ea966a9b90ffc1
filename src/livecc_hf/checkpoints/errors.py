"""Errors of loading a checkpoint."""

from __future__ import annotations

from huggingface_hub import constants

from ..utils.text import one_line


class ModelLoadError(ValueError):
    """Raised if a model cannot be loaded; the message is one line and says what to do."""


def hub_message(source: str, error: Exception) -> str:
    """Return the error message for a model that is not a local folder and cannot be fetched from the Hub."""
    if constants.HF_HUB_OFFLINE:
        return (
            f"{source} is not a local folder and not in the local cache, and HF_HUB_OFFLINE is set: unset it to "
            "download the model, or give a folder"
        )
    return f"{source} cannot be fetched from the Hub: {one_line(error)}"


def check_report(
    source: str,
    report: dict,
    what: str = "weights",
    meaning: str = "the folder does not hold the model its config.json describes",
) -> None:
    """Check that a model's weights were loaded completely.

    Args:
        source: the checkpoint, for the message.
        report: loading info of transformers' `from_pretrained`.
        what: what the keys are, for the message.
        meaning: the probable cause, for the message.

    Raises:
        ModelLoadError: if keys are missing, unexpected or have other shapes.
    """
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in report.get(kind) or ())
        if keys:
            raise ModelLoadError(f"{source}: {len(keys)} {what} are {kind.split('_')[0]}, such as {keys[0]}: {meaning}")
