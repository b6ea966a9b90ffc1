"""Models whose parts are offloaded to CPU or disk."""

import copy

import pytest
import torch

accelerate = pytest.importorskip("accelerate")

GREEDY = {"do_sample": False, "max_new_tokens": 4, "max_pixels": 50176}
CPU = torch.device("cpu")


def test_only_decoder_layers_may_be_offloaded(make_model, processor, load_frames):
    frames = load_frames("live_cc")[:8]
    model = make_model("mrope")
    expected = model.start_stream(processor, **GREEDY).push(frames)
    layers = copy.deepcopy(model)
    accelerate.cpu_offload(layers.model.language_model.layers, execution_device=CPU)
    assert layers.start_stream(processor, **GREEDY).push(frames) == expected
    for part, name in (("lm_head", "head"), ("model.visual", "vision tower"), ("", "embeddings")):
        offloaded = copy.deepcopy(model)
        accelerate.cpu_offload(offloaded.get_submodule(part), execution_device=CPU)
        with pytest.raises(ValueError, match=f"the model's {name} is offloaded .*: load it on a device"):
            offloaded.start_stream(processor, **GREEDY)
