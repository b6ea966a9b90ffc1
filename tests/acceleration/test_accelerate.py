"""Loaded models get the speedups for their device."""

import copy

import torch

from livecc_hf.acceleration import accelerate
from livecc_hf.acceleration.vision import PatchProjection


def test_the_vision_tower_is_accelerated_except_on_a_cpu(make_model):
    model = make_model("mrope")
    assert not isinstance(model.model.visual.patch_embed.proj, PatchProjection)
    elsewhere = accelerate(copy.deepcopy(model).to(torch.device("meta")))
    assert isinstance(elsewhere.model.visual.patch_embed.proj, PatchProjection)
