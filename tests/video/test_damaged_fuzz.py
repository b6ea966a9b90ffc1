"""Randomly damaged files only cause the package's own errors and warnings."""

import random
import warnings
from itertools import islice

import pytest
from media import write_video

from livecc_hf.captions.writers import Caption
from livecc_hf.data.media.clip_frames import plan_clip, read_clip
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.production.stages.metadata import probe
from livecc_hf.rendering.overlay import OverlayWarning, burn_captions
from livecc_hf.sources.early_check import check_is_video
from livecc_hf.video.reader import (
    VideoReadError,
    VideoReadWarning,
    iter_frames,
    measure_duration,
    probe_video,
)

# By file: 3 s of video with sound.
KINDS = {
    "h264.mp4": {"muxer_options": {"movflags": "faststart"}},
    "b.mkv": {"codec_options": {"bf": "2", "preset": "medium"}},
    "h264.ts": {},
    "mpeg4.avi": {"codec": "mpeg4", "clock": 10, "audio_codec": "mp2"},
    "vp8.webm": {"codec": "libvpx", "audio_s": None, "codec_options": {"deadline": "realtime"}},
    "mjpeg.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "h264.flv": {"clock": 1000},
    "fragments.mp4": {"muxer_options": {"movflags": "frag_keyframe+empty_moov"}},
}
FOURCCS = (b"avc1", b"mp4a", b"jpeg", b"V_MPEG4", b"V_VP8", b"FMP4", b"stsd", b"mdia", b"strh", b"A_AAC")
MAX_GAP_S = 60
# With such gaps between them, 30 frames are sampled no more often.
MOST_FRAMES = 2 * 31 * MAX_GAP_S


def damage(data: bytes, seed: str) -> bytes:
    """Return a file's bytes after one kind of damage."""
    dice = random.Random(seed)
    bytes_ = bytearray(data)
    at, length = dice.randrange(len(data)), dice.choice([1, 10, 188, 2000])
    match dice.randrange(7):
        case 0:
            return data[: max(at, 1)]
        case 1:
            return data[:at] + data[at + length :]
        case 2:
            return data[:at] + data[max(at - length, 0) :]
        case 3:
            bytes_[at : at + length] = bytes(length)
        case 4:
            for name in FOURCCS:
                if dice.random() < 0.5:
                    bytes_ = bytes_.replace(name, b"q" * len(name), 1)
        case 5:  # headers and tables are usually there
            for _ in range(dice.choice([1, 4, 30])):
                place = dice.randrange(min(3000, len(data)))
                bytes_[dice.choice([place, len(data) - 1 - place])] ^= 1 << dice.randrange(8)
        case 6:
            for _ in range(dice.choice([1, 4, 30, 300])):
                bytes_[dice.randrange(len(data))] = dice.randrange(256)
    return bytes(bytes_)


def uses(path, folder, processor):
    """Yield all functions that read a file, with the errors that each may raise."""

    def read(start_s=None):
        return sum(1 for _ in islice(iter_frames(path, start_s, max_gap_s=MAX_GAP_S), MOST_FRAMES + 1))

    def train():
        limits = {"min_pixels": 28 * 28, "max_pixels": 28 * 28}
        for span in ((None, None), (1, 2)):
            read_clip(path, plan_clip(path, *span, processor, **limits), processor)

    yield read, VideoReadError
    yield lambda: read(2), VideoReadError
    yield lambda: probe_video(path), VideoReadError
    yield lambda: measure_duration(path), VideoReadError
    yield lambda: check_is_video(path), VideoReadError
    yield lambda: probe(str(path)), VideoReadError
    yield train, UnusableSample
    yield lambda: burn_captions(path, [Caption(0, 2, "words")], folder / "out.mp4", max_gap_s=MAX_GAP_S), VideoReadError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    options = {"n_frames": 30, "audio_s": 3}
    return {name: write_video(folder / name, **options | kind).read_bytes() for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def video_processor(processor):
    return processor.video_processor


def check(name, data, folder, video_processor):
    path = folder / name
    path.write_bytes(data)
    for use, error in uses(path, folder, video_processor):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for known in (VideoReadWarning, OverlayWarning):
                warnings.simplefilter("ignore", known)
            try:
                count = use()
            except error as raised:
                assert str(path) in str(raised) or "end_s" in str(raised)
            else:
                assert not isinstance(count, int) or count <= MOST_FRAMES


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", KINDS)
def test_damage_causes_only_named_errors(name, seed, files, tmp_path, video_processor):
    check(name, damage(files[name], f"{name} {seed}"), tmp_path, video_processor)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_heavy_damage_causes_only_named_errors(name, files, tmp_path, video_processor):
    for seed in range(8, 200):
        check(name, damage(files[name], f"{name} {seed}"), tmp_path, video_processor)
