"""The benchmark of reading video compares equal frames."""

from functools import partial

from livecc_hf.modeling import video_sampling
from livecc_hf.video import reader


def test_both_ways_give_the_frames_of_the_whole_video(load, tmp_path):
    decoding, path = load("decoding"), tmp_path / "video.mp4"
    decoding.write_video(path, 12, 90, decoding.LIVE["h264_default"])  # longer than what is encoded, and repeated
    ours, other = (partial(decoding.sampled, read, path) for read in (reader.iter_frames, video_sampling.iter_frames))
    frames = list(ours())
    assert len(frames) == 2 * 20 and frames[0].shape == (3, 90, 160)  # whole repeats: 20 s
    assert not frames[0].equal(frames[1])
    *times_s, is_equal = decoding.compare(ours, other, 1)
    assert is_equal and min(times_s) > 0
    assert not decoding.compare(ours, lambda: frames[1:], 1)[-1]
