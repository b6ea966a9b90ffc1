"""A model loaded by this package reads files ahead, and past damage."""

import json
import threading

import pytest
from media import damage_time_table, write_video

from livecc_hf import load_model_and_processor
from livecc_hf.assets import bundled_model_path
from livecc_hf.modeling.video_file import VideoReadError, VideoReadWarning
from livecc_hf.modeling.video_loading import load_video
from livecc_hf.video.ahead import read_ahead, read_file
from livecc_hf.video.reader import iter_chunks


def test_reading_ahead_changes_nothing_and_stops_on_close(make_model, processor, reference_dir, monkeypatch):
    model = make_model("mrope")
    options = {"do_sample": False, "max_new_tokens": 3, "max_pixels": 28 * 28 * 12, "min_pixels": 28 * 28 * 4}
    clip = reference_dir / "clip.mp4"
    stream = model.start_stream(processor, **options)
    chunks = iter_chunks(clip, end_s=5)
    expected = [segment for chunk in chunks for segment in stream.push(chunk.frames, chunk.timestamps_s)]
    expected += stream.finish()
    monkeypatch.setattr(model, "read_file", read_file, raising=False)
    assert list(model.stream_generate(processor, clip, end_s=5, **options)) == expected
    before = threading.active_count()
    segments = model.stream_generate(processor, clip, **options)
    next(segments)
    assert threading.active_count() == before + 1
    segments.close()
    assert threading.active_count() == before


def test_an_error_while_reading_ahead_is_raised_after_earlier_items():
    def items():
        yield from range(3)
        raise OSError("cut")

    got = []
    with pytest.raises(OSError, match="cut"):
        for item in read_ahead(items(), n_items=1):
            got.append(item)
    assert got == [0, 1, 2]


def test_a_loaded_model_reads_past_a_jump_of_times(tmp_path):
    """The code in a model's folder raises a clear error instead."""
    model, processor, _ = load_model_and_processor(bundled_model_path(), device="cpu")
    path = write_video(tmp_path / "a.mp4", n_frames=100, audio_s=10, muxer_options={"use_editlist": "0"},
                       times_s=[(i + 0.1 * (i % 2)) / 10 for i in range(100)])  # fmt: skip
    damage_time_table(path, 50)
    with pytest.warns(VideoReadWarning, match="1 jump"):
        segments = list(model.stream_generate(processor, path, do_sample=False, max_new_tokens=1))
    assert [segment.end_s for segment in segments] == list(range(3, 12))  # the last frame stays until 10.1 s
    with pytest.warns(VideoReadWarning, match="1 jump"):
        inputs = processor(text="<|video_pad|>", videos=[str(path)], return_tensors="pt")
    assert inputs["video_grid_thw"][0, 0] == 11
    with pytest.raises(VideoReadError, match=r"a\.mp4 is damaged: its times jump from 5\.1 to 23679\.7 s"):
        load_video(path, processor.video_processor)
    processor.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/processor_config.json").read_text())
    assert "load_file" not in saved["video_processor"] and "patch_size" in saved["video_processor"]
