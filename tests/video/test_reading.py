"""The package's reader gives the same frames as the model folder's, from any place, singly or in chunks."""

import functools

import chosen
import pytest
import torch
from media import number_of, write_video

from livecc_hf.video import reader
from livecc_hf.video.reader import iter_chunks
from livecc_hf.video.source import RepairedSource

numbers, read = (functools.partial(function, reader=reader) for function in (chosen.numbers, chosen.read))
# Damage on a sound file fails a test.
pytestmark = pytest.mark.filterwarnings("error::livecc_hf.modeling.video_file.VideoReadWarning")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".webm", ".avi"])
def test_after_a_seek_is_the_same(tmp_path, suffix):
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    bf = {"bf": "3", "preset": "medium"} if codec == "libx264" else {}
    path = write_video(tmp_path / f"long{suffix}", n_frames=400, codec=codec, clock=10, codec_options={"g": "70"} | bf)
    whole = read(path)
    assert len(whole) == 80
    assert whole == chosen.read(path)
    for n in range(20, 80, 7):
        assert read(path, start_s=whole[n][1], end_s=whole[n][1] + 2) == whole[n : n + 4]
    assert read(path, start_s=whole[-1][1]) == whole[-1:]


def test_after_a_seek_that_fails_is_the_same(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mkv", n_frames=300, codec_options={"g": "1000"})
    expected = numbers(path)[40:]
    assert numbers(path, start_s=20) == expected
    monkeypatch.setattr(RepairedSource, "frames_before", lambda *_: None)
    assert numbers(path, start_s=20) == expected


class TestChunks:
    def test_group_frames(self, tmp_path):
        path = write_video(tmp_path / "video.mp4", n_frames=25)
        chunks = list(iter_chunks(path, start_s=0.5))
        assert [c.frames.shape for c in chunks] == [(2, 3, 64, 96), (2, 3, 64, 96)]
        assert [c.timestamps_s for c in chunks] == [[0.5, 1.0], [1.5, 2.0]]
        chunks = list(iter_chunks(path, frames_per_chunk=3))
        assert [len(c.frames) for c in chunks] == [3, 2]
        assert chunks[0].frames.dtype == torch.uint8
        assert [number_of(f) for c in chunks for f in c.frames] == numbers(path)

    def test_refuse_a_size_below_one(self, tmp_path):
        with pytest.raises(ValueError, match=r"frames_per_chunk=0: expected at least 1"):
            iter_chunks(write_video(tmp_path / "video.mp4"), frames_per_chunk=0)
