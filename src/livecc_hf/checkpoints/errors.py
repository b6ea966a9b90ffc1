"""What is said where a checkpoint cannot be loaded."""

from __future__ import annotations

from huggingface_hub import constants

from ..utils.text import one_line


class ModelLoadError(ValueError):
    """A model could not be loaded; the message is one line and says what to do."""


def hub_message(source: str, error: Exception) -> str:
    """Return what is said where a model is neither here nor to be had from the Hub."""
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
    """Raise `ModelLoadError` if transformers' loading report lists `what` that is missing, unexpected or mismatched."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in report.get(kind) or ())
        if keys:
            raise ModelLoadError(f"{source}: {len(keys)} {what} are {kind.split('_')[0]}, such as {keys[0]}: {meaning}")
