"""Patches stay uint8 between processes, and are normalised to the same values on the device."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from livecc_hf.data.batches.collator import CommentaryCollator
from livecc_hf.data.batches.loader import BatchLoader
from livecc_hf.data.batches.packing import plan_packs
from livecc_hf.data.dataset import DataPart, TrainingData, open_data
from livecc_hf.data.formats.chat import parse_chat
from livecc_hf.data.samples.chat import encode_chat
from livecc_hf.data.samples.pixels import PIXELS, normalise_pixels, with_raw_pixels
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources import tiny  # noqa: F401 - registers the source
from livecc_hf.training.inspection.report import patches_to_frames

OPTIONS = EncodeOptions(keep_trailing_silence=True)
ENTRY = {"source": "tiny", "length": [4, 6], "samples": 4}


@pytest.fixture()
def encoders(processor, tmp_path):
    """Functions that encode a commentary, and a conversation about an image and a video, with a processor."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (84, 112, 3), dtype=np.uint8)) for _ in range(4)]
    content = [{"type": "image", "image": pictures[0]}, {"type": "video", "video": pictures[1:]}, "What is this?"]
    chat = parse_chat([{"role": "user", "content": content}, {"role": "assistant", "content": "Noise."}], "here")
    data = open_data([ENTRY], processor, OPTIONS)
    return [
        lambda processor: data.with_processor(processor).sample(0),
        lambda processor: encode_chat(chat, processor, OPTIONS),
    ]


def test_normalised_bytes_equal_the_processors_output_exactly(processor, encoders):
    raw = with_raw_pixels(processor)
    for encode in encoders:
        expected, sample = encode(processor).model_inputs, encode(raw).model_inputs
        shown = [name for name in PIXELS if name in sample]
        assert shown
        assert all(sample[name].dtype == torch.uint8 and expected[name].dtype == torch.float32 for name in shown)
        found = normalise_pixels(sample, processor.video_processor)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


def test_frames_are_read_back_from_bytes_too(processor, encoders):
    raw = with_raw_pixels(processor)
    frames = [
        patches_to_frames(inputs["pixel_values_videos"], inputs["video_grid_thw"][:1], kind.video_processor)
        for kind in (processor, raw)
        for inputs in [encoders[1](kind).model_inputs]
    ]
    assert torch.equal(*frames)


def test_the_processor_itself_is_not_changed(processor):
    before = processor.to_json_string()
    with_raw_pixels(processor)
    assert processor.to_json_string() == before


def test_images_that_are_normalised_differently_stay_floats(processor):
    other = copy.copy(processor)
    other.image_processor = copy.copy(processor.image_processor)
    other.image_processor.image_mean = [0.5, 0.5, 0.5]
    assert with_raw_pixels(other) is other


class FloatPart:
    """A part whose samples have float pixels, since it uses its own processor."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, row):
        data = self.data

        class Item:
            def encode(self, processor, options):
                return data.sample(row)

        return Item()

    def origin(self, row):
        return f"sample {row}"


@pytest.mark.parametrize("is_mixed", [False, True])
def test_a_batch_has_one_dtype_of_pixels(processor, make_model, is_mixed):
    data = open_data([ENTRY], processor, OPTIONS)
    parts = [*data.parts, DataPart("floats", {}, FloatPart(data), 1.0)] if is_mixed else data.parts
    both = TrainingData(parts, processor, OPTIONS)
    packs = plan_packs(np.full(len(both), 10), 10 * len(both), seed=0)
    loader = BatchLoader(both, packs, CommentaryCollator(make_model("mrope").config, 0))
    batch = loader([{"row": 0}])
    assert batch["pixel_values_videos"].dtype == (torch.float32 if is_mixed else torch.uint8)
    numbers = normalise_pixels(batch, processor.video_processor)["pixel_values_videos"]
    wanted = torch.cat([both.sample(int(i)).model_inputs["pixel_values_videos"] for i in packs[0]])
    assert torch.equal(numbers, wanted)
