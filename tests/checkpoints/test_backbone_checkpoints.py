"""Published checkpoints of every backbone are converted and loaded; others are refused with a reason."""

import json
import logging
import shutil

import pytest
import torch
from backbones import BACKBONES, in_4_bit, write_published
from PIL import Image
from transformers.utils import logging as transformers_logging

from livecc_hf.checkpoints.checkpoint import open_checkpoint
from livecc_hf.checkpoints.convert import convert_checkpoint
from livecc_hf.checkpoints.errors import ModelLoadError
from livecc_hf.checkpoints.loading import load_model, load_model_and_processor, load_processor


@pytest.fixture(scope="module", params=BACKBONES)
def published(request, tmp_path_factory):
    return request.param, write_published(request.param, tmp_path_factory.mktemp(request.param) / request.param)


def test_a_converted_folder_is_the_same_model(published, tmp_path):
    name, source = published
    out = convert_checkpoint(source, tmp_path / "out", position_scheme="mrope")
    assert json.loads((out / "config.json").read_text())["backbone"] == name
    assert f"Backbone: `{name}`. Position scheme: `mrope`" in (out / "README.md").read_text()
    model, processor, info = load_model_and_processor(out)
    before = load_model(source, position_scheme="mrope")[0]
    assert (model.config.backbone, processor.backbone, info.notes) == (name, name, [])
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, before(input_ids=ids).logits)


def test_a_scheme_that_the_backbone_does_not_support_is_refused(published):
    name, source = published
    if name == "qwen2_vl":
        assert load_model(source, position_scheme="sequential")[1].position_scheme == "sequential"
        return
    with pytest.raises(ModelLoadError, match=f"'sequential' is only for qwen2_vl.*{name}: expected 'mrope'"):
        load_model(source, position_scheme="sequential")
    assert load_model(source)[1].notes == []  # no note on an assumption, since there is only one scheme


def changed(source, folder, **values):
    """Copy a checkpoint with other values in its config; return the copy."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    for part, value in values.items():
        config[part].update(value)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_config_that_does_not_fit_is_one_clear_error(tmp_path):
    source = write_published("qwen3_vl", tmp_path / "whole")
    patches = changed(source, tmp_path / "patches", vision_config={"patch_size": 14})
    with pytest.raises(ModelLoadError, match=r"vision_config\.patch_size is 14, but a qwen3_vl has patches of 16"):
        load_model(patches)
    wide = changed(source, tmp_path / "wide", text_config={"intermediate_size": 100})
    with pytest.raises(ModelLoadError, match="9 weights are mismatched, such as .*mlp"):
        load_model(wide)
    with pytest.raises(ModelLoadError, match=r"/whole: position_scheme='sequential' is only for qwen2_vl"):
        load_model(source, position_scheme="sequential")


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_transformers_report_of_weights_that_do_not_fit_is_printed_only_if_asked_for(level, tmp_path):
    source = write_published("qwen3_vl", tmp_path / "whole")
    wide = changed(source, tmp_path / "wide", text_config={"intermediate_size": 100})
    records, handler, before = [], logging.Handler(), transformers_logging.get_verbosity()
    handler.emit = records.append
    transformers_logging.set_verbosity(level)
    transformers_logging.add_handler(handler)
    try:
        with pytest.raises(ModelLoadError, match="weights are mismatched"):
            load_model(wide)
        assert transformers_logging.get_verbosity() == level
    finally:
        transformers_logging.remove_handler(handler)
        transformers_logging.set_verbosity(before)
    assert any("LOAD REPORT" in record.getMessage() for record in records) == (level == logging.INFO)


def test_an_adapter_needs_a_base_of_its_backbone(tmp_path):
    own, other = (write_published(name, tmp_path / name) for name in ("qwen3_vl", "qwen2_5_vl"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(own), "peft_type": "LORA"}))
    (adapter / "config.json").write_text(json.dumps({"model_type": "livecc", "backbone": "qwen3_vl"}))
    assert open_checkpoint(adapter).config.backbone == "qwen3_vl"
    with pytest.raises(ModelLoadError, match=r"adapter was trained on a qwen3_vl, but .*/qwen2_5_vl is a qwen2_5_vl"):
        open_checkpoint(adapter, base=other)


def test_streamingvlm_is_converted_with_its_grammar(tmp_path):
    """A stock Qwen2.5-VL whose name is the only sign of StreamingVLM."""
    source = write_published("qwen2_5_vl", tmp_path / "StreamingVLM")
    out = convert_checkpoint(source, tmp_path / "named")
    assert load_processor(out).grammar == "streamingvlm"
    assert "Grammar: `streamingvlm`." in (out / "README.md").read_text()
    _, processor, info = load_model_and_processor(source)
    assert processor.grammar == "streamingvlm" and "assuming grammar 'streamingvlm'" in info.notes[0]
    assert load_processor(convert_checkpoint(source, tmp_path / "told", grammar="livecc")).grammar == "livecc"
    assert load_processor(convert_checkpoint(out, tmp_path / "again")).grammar == "streamingvlm"
    with pytest.raises(ValueError, match="grammar='none' is unknown"):
        convert_checkpoint(source, tmp_path / "none", grammar="none")


def test_recurrent_families_are_refused_with_the_reason(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_5"}')
    with pytest.raises(ModelLoadError, match="'qwen3_5'.*a span of video cannot be evicted from a recurrent state"):
        load_model(tmp_path)


@pytest.fixture(scope="module")
def converted(published, tmp_path_factory):
    """A converted folder that includes the model's code."""
    name, source = published
    return convert_checkpoint(source, tmp_path_factory.mktemp("converted") / name, position_scheme="mrope")


def shown_to(processor, seed: int) -> tuple[Image.Image, torch.Tensor]:
    """A picture and a video that need no resizing."""
    side_px = 12 * processor.video_processor.factor
    rng = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 256, (side_px, side_px, 3), dtype=torch.uint8, generator=rng)
    video = torch.randint(0, 256, (4, 3, side_px, side_px), dtype=torch.uint8, generator=rng)
    return Image.fromarray(picture.numpy()), video


def test_a_row_of_a_batch_with_pictures_and_videos_equals_the_row_alone(converted):
    model, processor, _ = load_model_and_processor(converted)
    picture, first = shown_to(processor, 1)
    _, second = shown_to(processor, 2)
    image, video = {"type": "image"}, {"type": "video"}
    contents = [[image, video, {"type": "text", "text": "What?"}], [video, {"type": "text", "text": "Who?"}, video]]
    chats = [[{"role": "user", "content": content}] for content in contents]
    texts = [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    batch = processor(
        text=texts, images=[picture], videos=[first, second[:2], first], padding=True, return_tensors="pt"
    )
    alone = [
        processor(text=[texts[0]], images=[picture], videos=[first], return_tensors="pt"),
        processor(text=[texts[1]], videos=[second[:2], first], return_tensors="pt"),
    ]
    with torch.no_grad():
        together = model(**batch).logits
        for row, inputs in enumerate(alone):
            n_tokens = inputs["input_ids"].shape[1]
            assert torch.equal(batch["input_ids"][row, -n_tokens:], inputs["input_ids"][0])
            assert (together[row, -n_tokens:] - model(**inputs).logits[0]).abs().max() < 1e-4


def test_a_converted_folder_streams_in_4_bit(converted):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForImageTextToText

    how = {"quantization_config": in_4_bit(), "dtype": "float32", "trust_remote_code": True}
    model = AutoModelForImageTextToText.from_pretrained(converted, **how).eval()
    processor = load_processor(converted)
    names = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    n_layers = model.config.text_config.num_hidden_layers
    assert len(names) == n_layers and all(".language_model.layers." in name for name in names)
    frames = shown_to(processor, 1)[1].repeat(2, 1, 1, 1)
    segments = model.start_stream(processor, do_sample=False, max_new_tokens=4, output_logits=True).push(frames)
    assert [(segment.start_s, segment.end_s) for segment in segments] == [(0, 3), (3, 4)]
    assert all(torch.isfinite(segment.logits).all() for segment in segments)


def test_a_model_is_made_from_a_config_alone(converted):
    """All ways to make it give a model that equals another one when it gets its weights."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    whole, processor, _ = load_model_and_processor(converted)
    config = AutoConfig.from_pretrained(converted, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_config(config, trust_remote_code=True).eval()
    assert model.config.backbone == whole.config.backbone
    assert model.load_state_dict(whole.state_dict()) and model.dtype == whole.dtype
    frames = shown_to(processor, 1)[1].repeat(2, 1, 1, 1)
    said = [
        [list(s.token_ids) for s in each.start_stream(processor, do_sample=False, max_new_tokens=4).push(frames)]
        for each in (model, whole)
    ]
    assert said[0] == said[1] and len(said[0]) == 2
