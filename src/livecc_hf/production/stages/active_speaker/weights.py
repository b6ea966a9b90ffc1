"""Loads Light-ASD or LR-ASD from the published `.model` files or from safetensors."""

from __future__ import annotations

from pathlib import Path

import torch

from ....utils.text import one_line
from .hub_files import find_weights
from .networks import LightAsd, LrAsd, SpeakerNetwork

_SUFFIXES = (".safetensors", ".model")
# The head that sees only pictures is used in training alone.
_UNUSED = ("lossV.",)


def load_network(source: str) -> SpeakerNetwork:
    """Load Light-ASD or LR-ASD, whichever the names of the weights belong to.

    Args:
        source: a file, a folder or Hub repository that holds one, or `repo:file`.

    Raises:
        ValueError: if there is no such file, or it holds other weights.
    """
    file = find_weights(source, _SUFFIXES, "active_speaker.model", "Light-ASD's or LR-ASD's weights")
    weights = {name: value for name, value in _read(file).items() if not name.startswith(_UNUSED)}
    network = LrAsd() if any(name.startswith("model.detector.") for name in weights) else LightAsd()
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{file} does not hold the weights of Light-ASD or LR-ASD: {one_line(error)[:300]}; expected names such as "
            "model.visualEncoder.block1.s_3.weight"
        ) from error
    return network.eval()


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each file format raises errors of its own
        raise ValueError(f"{file} cannot be read as weights: {one_line(error)}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{file} does not hold weights by name: expected a state dict of Light-ASD or LR-ASD")
    return weights
