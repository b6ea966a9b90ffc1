"""The speedups for GPUs do not change any backbone's numbers."""

import pytest
from backbones import BACKBONES, write_published
from eager_graph import capture_eagerly
from pooled import OPTIONS, assert_same

from livecc_hf.acceleration.decoding import FixedDecoding
from livecc_hf.acceleration.vision import use_lean_vision
from livecc_hf.checkpoints.checkpoint import open_checkpoint


@pytest.mark.parametrize("name", BACKBONES)
def test_an_accelerated_stream_generates_the_same(name, load_frames, tmp_path):
    folder, frames = write_published(name, tmp_path / name), load_frames("live_cc")[:10, :, :84, :112]
    checkpoint = open_checkpoint(folder, position_scheme="mrope")
    model, processor = checkpoint.load_base(device="cpu").eval(), checkpoint.load_processor()
    expected = model.start_stream(processor, OPTIONS).push(frames)
    use_lean_vision(model.model.visual)
    model.decode_step = FixedDecoding(devices=["cpu"], capture=capture_eagerly)
    stream = model.start_stream(processor, OPTIONS)
    assert_same(stream.push(frames), expected)
    assert len(stream.state.cache.memory.step.graphed.graphs) == 1
