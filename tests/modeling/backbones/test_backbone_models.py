"""All backbones: `generate` equals the stock class; configs, folders, adapters and invalid input."""

import copy
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from backbones import in_4_bit

from livecc_hf.modeling import LiveCCConfig, LiveCCForConditionalGeneration, LiveCCVideoProcessor, StreamingProcessor
from livecc_hf.modeling.backbones import find_backbone


@pytest.fixture(scope="module")
def stock(backbone, backbone_model):
    """Transformers' own model with the same weights."""
    spec, config = find_backbone(backbone), backbone_model.config
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "tie_word_embeddings")
    parts = {name: getattr(config, name).to_dict() for name in ("text_config", "vision_config")}
    values = {name: getattr(config, name) for name in names} | parts
    model = spec.model_classes()[0](spec.config_class()(**values)).eval()
    model.load_state_dict(backbone_model.state_dict())
    return model


@pytest.fixture(scope="module")
def question(backbone_processor, load_frames):
    """A question about a short video, as the processor makes it."""
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What is it?"}]}]
    text = backbone_processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    per_token = backbone_processor.video_processor.pixels_per_token
    return backbone_processor(
        text=[text],
        videos=[load_frames("live_cc")[:4, :, :128, :160]],
        size={"shortest_edge": 4 * per_token, "longest_edge": 30 * per_token},
        return_tensors="pt",
    )


def test_generate_equals_the_stock_class(stock, backbone_model, question):
    assert question["video_grid_thw"][0, 0] == 2
    with torch.no_grad():
        torch.testing.assert_close(backbone_model(**question).logits, stock(**question).logits, atol=1e-5, rtol=0)
    asked = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
    assert torch.equal(backbone_model.generate(**question, **asked), stock.generate(**question, **asked))


def test_text_after_a_long_clip_continues_from_the_largest_position(backbone, backbone_model):
    """More frame pairs than tokens along a side."""
    config, t = backbone_model.config, 9
    one = [config.vision_start_token_id] + [config.video_token_id] * 4 + [config.vision_end_token_id]
    ids = one * t if backbone == "qwen3_vl" else [one[0], *[config.video_token_id] * 4 * t, one[-1]]
    ids = torch.tensor([[5, *ids, 6]])
    types = 2 * (ids == config.video_token_id).int()
    positions, deltas = backbone_model.model.get_rope_index(ids, types, video_grid_thw=torch.tensor([[t, 4, 4]]))
    positions = positions[:, 0]
    assert positions[:, -1].tolist() == [int(positions[:, :-1].max()) + 1] * 3
    assert int(deltas) == int(positions.max()) + 1 - ids.shape[1]
    expected = {"qwen2_vl": 2 + t + 1, "qwen2_5_vl": 2 + 2 * (t - 1) + 1 + 1, "qwen3_vl": 1 + t * 4}
    assert int(positions[0, -1]) == expected[backbone]


def test_a_saved_folder_loads_with_nothing_missing(backbone, backbone_model, backbone_processor, tmp_path):
    backbone_model.save_pretrained(tmp_path)
    backbone_processor.save_pretrained(tmp_path)
    model, info = LiveCCForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(model, LiveCCForConditionalGeneration)
    assert isinstance(model, find_backbone(backbone).model_classes()[0])
    for (name, saved), (_, loaded) in zip(backbone_model.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(saved, loaded), name
    processor = StreamingProcessor.from_pretrained(tmp_path)
    assert processor.backbone == model.config.backbone == backbone
    assert processor.video_processor.to_dict() == backbone_processor.video_processor.to_dict()
    for part in ("text_config", "vision_config"):
        read, written = getattr(model.config, part).to_dict(), getattr(backbone_model.config, part).to_dict()
        assert {**read, "dtype": None} == {**written, "dtype": None}


def test_a_published_folder_loads_with_nothing_missing(backbone, stock, backbone_model, tmp_path):
    stock.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["model_type"] == backbone
    config = LiveCCConfig.from_pretrained(tmp_path)
    assert config.backbone == backbone
    model, info = LiveCCForConditionalGeneration.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for (name, saved), (_, loaded) in zip(backbone_model.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(saved, loaded), name


def test_a_published_processor_is_read(backbone, backbone_processor, backbone_model, tmp_path):
    """Its pixel limits may be for whole videos; LiveCC's are for one frame."""
    from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

    published = Qwen3VLVideoProcessor if backbone == "qwen3_vl" else Qwen2VLVideoProcessor
    backbone_processor.tokenizer.save_pretrained(tmp_path)
    backbone_processor.image_processor.save_pretrained(tmp_path)
    published().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": backbone}))
    processor = StreamingProcessor.from_pretrained(tmp_path)
    video_processor = processor.video_processor
    assert processor.backbone == backbone
    assert isinstance(video_processor, LiveCCVideoProcessor)
    assert video_processor.size["longest_edge"] == 768 * find_backbone(backbone).pixels_per_token
    assert list(video_processor.image_mean) == list(find_backbone(backbone).image_mean)


def test_a_hub_folder_streams_without_the_package(backbone_model, backbone_processor, frames, options, tmp_path):
    backbone_model.save_pretrained(tmp_path / "model")
    backbone_processor.save_pretrained(tmp_path / "model")
    torch.save(frames, tmp_path / "frames.pt")
    options = options | {"output_logits": False}
    code = f"""
        import json, sys, torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        model = AutoModelForImageTextToText.from_pretrained("model", trust_remote_code=True).eval()
        processor = AutoProcessor.from_pretrained("model", trust_remote_code=True)
        stream = model.start_stream(processor, **{options!r})
        segments = stream.push(torch.load("frames.pt"))
        assert "livecc_hf" not in sys.modules and "transformers_modules" in type(model).__module__
        print(json.dumps([s.token_ids for s in segments]))
    """
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = [tuple(ids) for ids in json.loads(done.stdout.splitlines()[-1])]
    expected = backbone_model.start_stream(backbone_processor, **options).push(frames)
    assert said == [segment.token_ids for segment in expected]


def test_an_adapter_streams_as_when_merged(backbone_model, backbone_processor, frames, options):
    from peft import LoraConfig, get_peft_model

    targets = r".*language_model.*\.(q_proj|v_proj|down_proj)"
    adapted = get_peft_model(copy.deepcopy(backbone_model), LoraConfig(r=2, target_modules=targets))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.eval()
    plain = backbone_model.start_stream(backbone_processor, **options).push(frames[:8])
    with_adapter = adapted.base_model.model.start_stream(backbone_processor, **options).push(frames[:8])
    assert not torch.allclose(with_adapter[0].logits[0], plain[0].logits[0], atol=1e-3)
    merged = adapted.merge_and_unload().eval()
    assert isinstance(merged, LiveCCForConditionalGeneration)
    again = merged.start_stream(backbone_processor, **options).push(frames[:8])
    assert again == with_adapter
    for a, b in zip(again, with_adapter, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=1e-4, rtol=0)


def test_4_bit_weights_stream(backbone_model, backbone_processor, frames, options, tmp_path):
    pytest.importorskip("bitsandbytes")
    backbone_model.save_pretrained(tmp_path)
    how = {"quantization_config": in_4_bit(), "dtype": "float32"}
    model = LiveCCForConditionalGeneration.from_pretrained(tmp_path, **how).eval()
    layers = [type(module).__name__ for module in model.model.language_model.modules()]
    assert layers.count("Linear4bit") == 3
    segments = model.start_stream(backbone_processor, **options).push(frames[:8])
    assert len(segments) == 2 and all(torch.isfinite(segment.logits).all() for segment in segments)


def test_models_can_be_pickled_and_deep_copied(backbone_model, tmp_path):
    torch.save(backbone_model, tmp_path / "model.pt")
    model = torch.load(tmp_path / "model.pt", weights_only=False)
    assert type(model) is type(backbone_model) is type(copy.deepcopy(backbone_model))


def test_schemes_of_released_weights_are_for_qwen2_vl_only(backbone, backbone_model):
    for scheme in ("sequential", "reference"):
        if backbone == "qwen2_vl":
            assert LiveCCConfig(position_scheme=scheme).position_scheme == scheme
            continue
        with pytest.raises(
            ValueError, match=f"position_scheme='{scheme}' is only for qwen2_vl.*this model is a {backbone}"
        ):
            LiveCCConfig(backbone=backbone, position_scheme=scheme)
        config = copy.deepcopy(backbone_model.config)
        config.position_scheme = scheme
        with pytest.raises(ValueError, match="only for qwen2_vl"):
            LiveCCForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("llama", "'llama' is not a LiveCC backbone: expected one of qwen2_vl, qwen2_5_vl, qwen3_vl"),
        ("qwen3_5", "qwen3_5 cannot be LiveCC's backbone: .*a span of video cannot be evicted from a recurrent state"),
    ],
)
def test_a_config_of_another_family_is_refused(model_type, why, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=why):
        LiveCCConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=why):
        LiveCCConfig(backbone=model_type)


def test_a_processor_of_another_backbone_is_refused(backbone, backbone_model, processor):
    from tiny_backbones import all_backbones, tiny_processor

    for other in all_backbones():
        if other != backbone:
            with pytest.raises(ValueError, match=f"was made for {other}, but the model is a {backbone}"):
                backbone_model.start_stream(tiny_processor(other, processor))


def test_patches_of_another_size_are_refused(backbone, processor):
    other = 14 if backbone == "qwen3_vl" else 16
    with pytest.raises(ValueError, match=f"patch_size is {other}, but a {backbone} has patches of"):
        StreamingProcessor(
            processor.image_processor, processor.tokenizer, LiveCCVideoProcessor(patch_size=other), backbone=backbone
        )
    fitting = LiveCCVideoProcessor(patch_size=find_backbone(backbone).patch_size)
    images = type(processor.image_processor)(patch_size=other)
    with pytest.raises(ValueError, match=f"the image processor's patch_size is {other}, but a {backbone} has patches"):
        StreamingProcessor(images, processor.tokenizer, fitting, backbone=backbone)
    with pytest.raises(ValueError, match=r"patch_size is 15: expected one of \[14, 16\]"):
        LiveCCVideoProcessor(patch_size=15)


def test_frames_smaller_than_a_token_are_refused(backbone_processor):
    video_processor = backbone_processor.video_processor
    side = video_processor.factor
    small = torch.zeros(2, 3, side // 2, side, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"multiples of {side}"):
        video_processor.frames_to_patches(small, do_resize=False)
    with pytest.raises(ValueError, match=f"max_pixels=500 is less than a token: expected at least {side**2} pixels"):
        video_processor.frames_to_patches(small, max_pixels=500)
    assert video_processor.frames_to_patches(small)[1][0, 0] == 1  # enlarged


def test_a_backbone_that_cannot_evict_refuses_a_sliding_window(backbone_model, backbone_processor, monkeypatch):
    monkeypatch.setattr(type(backbone_model.config.find_backbone()), "can_forget", False)
    with pytest.raises(ValueError, match="nothing can be evicted from the context of a .*: use window='reprefill'"):
        backbone_model.start_stream(backbone_processor, window="sliding")
    backbone_model.start_stream(backbone_processor, window="reprefill")


def test_only_the_registry_compares_backbone_names():
    root = Path(__file__).parents[3]
    files = [*(root / "modeling").glob("*.py"), *(root / "src/livecc_hf").rglob("*.py")]
    found = {path.name for path in files if re.search(r"[=!]= *[\"']qwen", path.read_text(encoding="utf-8"))}
    assert found == {"backbones.py"}
