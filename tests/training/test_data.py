"""Recipes' data lists become samples."""

import pytest
import torch

from livecc_hf.training import tiny_source  # noqa: F401
from livecc_hf.training.data import SOURCES, EncodeOptions, build_dataset, register_source

NARRATE = {"source": "tiny", "task": "narrate", "length": [6, 8], "samples": 6, "group": 3}


def test_items_are_samples_in_the_grammar(tiny_processor):
    dataset = build_dataset([NARRATE], tiny_processor, EncodeOptions(keep_trailing_silence=True), seed=1)
    assert len(dataset) == 6
    item = dataset[0]
    text = tiny_processor.tokenizer.decode(item["input_ids"])
    assert "Time=0.0-3.0s" in text
    assert text.count("assistant\n") == len(item["video_grid_thw"])
    spoken = item["input_ids"][item["labels"] != -100]
    assert torch.equal(spoken, item["labels"][item["labels"] != -100])
    assert len(item["pixel_values_videos"]) == item["video_grid_thw"].prod(1).sum()
    assert (item["mm_token_type_ids"] == 2).sum() * 4 == len(item["pixel_values_videos"])


def test_the_seed_decides_the_clips_and_groups_share_a_length(tiny_processor):
    options = EncodeOptions(keep_trailing_silence=True)
    first, again = (build_dataset([NARRATE], tiny_processor, options, seed=1) for _ in range(2))
    other = build_dataset([NARRATE], tiny_processor, options, seed=2)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["pixel_values_videos"], other[0]["pixel_values_videos"])
    assert len({len(item["video_grid_thw"]) for item in first.select(range(3))}) == 1


def test_entries_follow_one_another(tiny_processor):
    names = {"source": "tiny", "task": "list", "length": [1, 1], "samples": 2}
    dataset = build_dataset([names, NARRATE], tiny_processor, EncodeOptions(True))
    assert len(dataset) == 8
    assert "List the objects." in tiny_processor.tokenizer.decode(dataset[1]["input_ids"])
    assert "Commentate" in tiny_processor.tokenizer.decode(dataset[2]["input_ids"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "data list is empty"),
        ([{"source": "nowhere"}], "entry 0 has source 'nowhere'.*tiny"),
        ([NARRATE | {"lenght": 3}], "lenght"),
        ([NARRATE | {"task": "sing"}], "'sing'.*narrate"),
        ([NARRATE | {"length": [2, 8]}], r"\[2, 8\].*low >= 4"),
        ([NARRATE | {"moods": ["wild"]}], "wild.*calm"),
        ([NARRATE | {"samples": 0}], "samples is 0"),
    ],
)
def test_malformed_entries_are_refused(tiny_processor, entries, message):
    with pytest.raises(ValueError, match=message):
        build_dataset(entries, tiny_processor)


def test_a_source_name_is_taken_once():
    with pytest.raises(ValueError, match="'tiny' is registered"):
        register_source("tiny")(type(SOURCES["tiny"]))
