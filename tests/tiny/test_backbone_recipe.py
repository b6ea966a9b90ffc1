"""livecc-tiny's recipe on every backbone: the same tokens of a frame, fewer samples, recall on the same clips."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources.tiny import TinyEntry, TinySource

RECIPE = Path(__file__).parents[2] / "recipes/livecc-tiny"
VARIANTS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_untimed")


@pytest.fixture()
def recipe(load, monkeypatch):
    """The script of a stage, as a module; what it registers is gone after a test."""
    from livecc_hf.modeling import backbone_qwen3_vl

    monkeypatch.setattr(backbone_qwen3_vl, "BACKBONE", backbone_qwen3_vl.BACKBONE)
    monkeypatch.syspath_prepend(str(RECIPE))
    yield load("backbone_stage")
    for name in ("backbone_stage", "warmup", "make_tokenizer"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_sees_nine_tokens_a_frame_pair_and_learns_with_all_its_weights(recipe, load, variant):
    warmup = load("warmup")
    processor = warmup.build_processor(recipe.use_variant(variant))
    model = warmup.build_model(processor)
    assert model.num_parameters() < 2_000_000
    entry = {"samples": 1, "length": [8, 8], "moods": ["busy"], "frame_px": warmup.frame_px(processor)}
    sample = TinySource().open(entry, 0)[0].encode(processor, EncodeOptions(keep_trailing_silence=True))
    inputs = sample.model_inputs
    assert inputs["input_ids"].tolist().count(processor.video_token_id) == 8 * 9
    assert ("seconds>" in processor.tokenizer.decode(inputs["input_ids"])) == (variant == "qwen3_vl")
    rows = {k: v[None] for k, v in inputs.items() if k in ("input_ids", "labels", "mm_token_type_ids")}
    model(**rows, **{k: v for k, v in inputs.items() if k not in rows}).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_the_vision_tower_warms_up_with_deepstack_too(recipe, load):
    warmup = load("warmup")
    processor = warmup.build_processor("qwen3_vl")
    vision = warmup.build_model(processor).model.visual
    before = {name: weight.detach().clone() for name, weight in vision.named_parameters()}
    threads = torch.get_num_threads()
    warmup.warm_up(vision, processor, rank=0, world_size=1, n_steps=1)
    assert torch.get_num_threads() == threads
    assert [name for name, weight in vision.named_parameters() if torch.equal(weight, before[name])] == []


def test_a_stage_takes_a_share_of_the_recipes_samples_in_whole_groups(recipe):
    entries = recipe.stage_data("2-narration", 1 / 3, 96)
    assert [entry["samples"] for entry in entries] == [4272, 2128, 1872, 2400]
    assert {entry["frame_px"] for entry in entries} == {96}
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        recipe.stage_data("2-narration", 1.5, 84)
    with pytest.raises(ValueError, match="'gpt'.*qwen2_vl"):
        recipe.use_variant("gpt")


@pytest.mark.parametrize("task", ["list", "narrate"])
def test_frames_are_drawn_at_the_size_asked_for(task):
    item = TinySource().open({"samples": 1, "task": task, "length": [4, 4], "frame_px": 96}, 0)[0]
    assert item.draw().frames.shape[-2:] == (96, 96)
    with pytest.raises(ValueError, match="frame_px is 0"):
        TinyEntry(samples=1, frame_px=0)


def test_a_difference_of_recall_is_that_of_the_same_clips(recipe, load):
    difference = load("backbone_recall").difference
    for told, base_told, events, gap, error in (
        ([3, 5], [3, 5], [4, 6], 0, 0),
        ([4, 2], [3, 3], [5, 5], 0, (2 * 2) ** 0.5 / 10),  # one more here, one fewer there
        ([4, 4], [3, 3], [5, 5], 0.2, 0),
    ):
        found = difference(*((np.array(of), np.array(events)) for of in (told, base_told)))
        assert found == {"recall_difference": pytest.approx(gap), "recall_difference_se": pytest.approx(error)}


def test_a_run_begun_before_frames_had_a_size_finds_its_data_again():
    of = {size: TinySource().open({"samples": 1, "frame_px": size}, 3).fingerprint() for size in (84, 96)}
    usual = "task='narrate', length=(16, 28), group=16, moods=('calm',), narrator='plain', window_s=0"
    assert of[84] == f"TinyEntry(samples=1, {usual}) 300000"
    assert of[96] == f"TinyEntry(samples=1, {usual}, frame_px=96) 300000"
