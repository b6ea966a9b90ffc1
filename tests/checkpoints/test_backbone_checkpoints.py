"""Published checkpoints of every backbone convert and load; others are refused in words."""

import json

import pytest
import torch
from backbones import BACKBONES, write_published

from livecc_hf.checkpoints.convert import convert_checkpoint
from livecc_hf.checkpoints.errors import ModelLoadError
from livecc_hf.checkpoints.loading import load_model, load_model_and_processor


@pytest.fixture(scope="module", params=BACKBONES)
def published(request, tmp_path_factory):
    return request.param, write_published(request.param, tmp_path_factory.mktemp(request.param) / request.param)


def test_a_converted_folder_is_the_same_model(published, tmp_path):
    name, source = published
    out = convert_checkpoint(source, tmp_path / "out", position_scheme="mrope")
    assert json.loads((out / "config.json").read_text())["backbone"] == name
    model, processor, info = load_model_and_processor(out)
    before = load_model(source, position_scheme="mrope")[0]
    assert (model.config.backbone, processor.backbone, info.notes) == (name, name, [])
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, before(input_ids=ids).logits)


def test_a_scheme_that_the_backbone_does_not_know_is_refused(published):
    name, source = published
    if name == "qwen2_vl":
        assert load_model(source, position_scheme="sequential")[1].position_scheme == "sequential"
        return
    with pytest.raises(ModelLoadError, match=f"'sequential' is only for qwen2_vl.*{name}: expected 'mrope'"):
        load_model(source, position_scheme="sequential")
    assert load_model(source)[1].notes == []  # nothing is assumed: there is one


def test_recurrent_families_are_refused_with_the_reason(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_5"}')
    with pytest.raises(ModelLoadError, match="'qwen3_5'.*recurrent state, which cannot forget a span"):
        load_model(tmp_path)
