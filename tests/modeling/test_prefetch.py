"""Frames of a file are read while the model speaks."""

import threading

import pytest

from livecc_hf.modeling.prefetch import read_ahead
from livecc_hf.modeling.video_reader import iter_chunks


def test_reading_ahead_changes_nothing_and_stops_when_told(make_model, processor, reference_dir):
    model = make_model("mrope")
    options = {"do_sample": False, "max_new_tokens": 3, "max_pixels": 28 * 28 * 12, "min_pixels": 28 * 28 * 4}
    clip = reference_dir / "clip.mp4"
    stream = model.start_stream(processor, **options)
    expected = [segment for chunk in iter_chunks(clip) for segment in stream.push(chunk.frames, chunk.timestamps_s)]
    expected += stream.finish()
    assert list(model.stream_generate(processor, clip, **options)) == expected
    before = threading.active_count()
    segments = model.stream_generate(processor, clip, **options)
    next(segments)
    assert threading.active_count() == before + 1
    segments.close()
    assert threading.active_count() == before


def test_what_fails_while_reading_ahead_is_raised_after_what_came_before():
    def items():
        yield from range(3)
        raise OSError("cut")

    got = []
    with pytest.raises(OSError, match="cut"):
        for item in read_ahead(items(), n_items=1):
            got.append(item)
    assert got == [0, 1, 2]
