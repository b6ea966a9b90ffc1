"""A recipe's data list is opened as one collection of samples."""

import json

import numpy as np
import pytest
import torch

from livecc_hf.data.dataset import SOURCES, open_data, register_source
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources import narrated, tiny  # noqa: F401

NARRATE = {"source": "tiny", "task": "narrate", "length": [6, 8], "samples": 6, "group": 3}
NAMES = {"source": "tiny", "task": "list", "length": [1, 1], "samples": 4}
SILENCE = EncodeOptions(keep_trailing_silence=True)


def test_items_are_samples_in_the_grammar(tiny_processor):
    data = open_data([NARRATE], tiny_processor, SILENCE, seed=1)
    assert len(data) == 6
    item = data.sample(0).model_inputs
    text = tiny_processor.tokenizer.decode(item["input_ids"])
    assert "Time=0.0-3.0s" in text
    assert text.count("assistant\n") == len(item["video_grid_thw"])
    spoken = item["input_ids"][item["labels"] != -100]
    assert torch.equal(spoken, item["labels"][item["labels"] != -100])
    assert len(item["pixel_values_videos"]) == item["video_grid_thw"].prod(1).sum()
    assert (item["mm_token_type_ids"] == 2).sum() * 4 == len(item["pixel_values_videos"])


def test_the_seed_decides_the_clips_and_groups_share_a_length(tiny_processor):
    first, again = (open_data([NARRATE], tiny_processor, SILENCE, seed=1) for _ in range(2))
    other = open_data([NARRATE], tiny_processor, SILENCE, seed=2)
    for index in range(6):
        one, two = first.sample(index).model_inputs, again.sample(index).model_inputs
        assert torch.equal(one["input_ids"], two["input_ids"])
    pixels = [data.sample(0).model_inputs["pixel_values_videos"] for data in (first, other)]
    assert not torch.equal(*pixels)
    assert len({len(first.sample(index).model_inputs["video_grid_thw"]) for index in range(3)}) == 1


def test_entries_follow_one_another(tiny_processor):
    data = open_data([NAMES, NARRATE], tiny_processor, SILENCE)
    assert len(data) == 10
    texts = [tiny_processor.tokenizer.decode(data.sample(i).model_inputs["input_ids"]) for i in (3, 4)]
    assert "List the objects." in texts[0]
    assert "Commentate" in texts[1]
    assert data.origin(4).startswith("tiny narrate, seed")


@pytest.mark.parametrize(("weight", "counts"), [(1, [1] * 4), (2, [2] * 4), (0.5, [0, 0, 1, 1]), (1.25, [1, 1, 1, 2])])
def test_a_weight_says_how_often_a_sample_occurs(tiny_processor, weight, counts):
    data = open_data([NARRATE, NAMES | {"weight": weight}], tiny_processor, seed=3)
    rows = data.row_of[data.part_of == 1]
    assert sorted(np.bincount(rows, minlength=4)) == counts
    again = open_data([NARRATE, NAMES | {"weight": weight}], tiny_processor, seed=3)
    assert np.array_equal(data.row_of, again.row_of)


def test_the_fingerprint_tells_data_apart(tiny_processor):
    prints = {
        open_data([NARRATE, NAMES], tiny_processor).fingerprint(),
        open_data([NAMES, NARRATE], tiny_processor).fingerprint(),
        open_data([NARRATE, NAMES], tiny_processor, SILENCE).fingerprint(),
        open_data([NARRATE, NAMES | {"weight": 0.5}], tiny_processor).fingerprint(),
        open_data([NARRATE, NAMES | {"weight": 0.5}], tiny_processor, seed=1).fingerprint(),
    }
    assert len(prints) == 5
    assert open_data([NARRATE, NAMES], tiny_processor).fingerprint() in prints


def test_a_selection_keeps_its_items(tiny_processor):
    data = open_data([NARRATE, NAMES], tiny_processor)
    chosen = data.select([9, 0])
    assert [chosen.origin(0), chosen.origin(1)] == [data.origin(9), data.origin(0)]


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
        ([NARRATE | {"weight": 0}], "entry 0 has weight 0"),
        ([{"source": ["tiny"]}], r"entry 0 has source \['tiny'\]"),
        ([{"source": "tiny"}], "lacks the keys.*samples"),
        ([NARRATE | {"length": 8}], r"length is 8 in a 'tiny' data entry: expected tuple\[int, int\]"),
        ([NARRATE | {"length": [8]}], r"length is \[8\] in a 'tiny' data entry"),
        ([NARRATE | {"moods": "calm"}], "moods is 'calm' in a 'tiny' data entry"),
        ([{"source": "folder", "path": 2024}], "path is 2024 in a 'folder' data entry: expected str"),
        ([{"source": "folder", "path": "x", "max_gap_s": True}], "max_gap_s is True"),
        ([{"source": "folder", "path": "x", "language": 1}], r"language is 1 .*: expected str \| None"),
        ([NAMES | {"samples": 1, "weight": 0.1}], "dataset is empty.*tiny"),
    ],
)
def test_malformed_entries_are_refused(tiny_processor, entries, message):
    with pytest.raises(ValueError, match=message):
        open_data(entries, tiny_processor)


def test_a_source_name_is_taken_once():
    with pytest.raises(ValueError, match="'tiny' is already registered"):
        register_source("tiny")(type(SOURCES["tiny"]))


def test_json_on_one_line(tiny_processor):
    assert len(open_data([json.loads('{"source": "tiny", "samples": 3}')], tiny_processor)) == 3
