"""Held-out clips of a training run: what the model sees of them, and how its words are shown and scored."""

import pytest
import torch
from media import write_video

from livecc_hf.captions.words import Word
from livecc_hf.data.formats.conversations import NarratedVideo
from livecc_hf.data.samples.commentary import encode_commentary
from livecc_hf.data.samples.narration import NarratedClip, encode_clip
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources.narrated import NarrationItem
from livecc_hf.modeling.stream_options import StreamOptions
from livecc_hf.training.live_commentary import (
    CommentedTurn,
    GroundTruthClip,
    comment,
    commentary_text,
    timing_metrics,
)


def test_frames_are_as_large_as_in_training(processor, make_model):
    frames = torch.randint(0, 256, (6, 3, 672, 896), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    times_s = [n / 2 for n in range(6)]
    trained = encode_commentary(processor, frames, times_s, [(0.1, 0.2, "word")]).model_inputs["video_grid_thw"]
    seen = []
    model = make_model("mrope")
    hook = model.model.visual.register_forward_hook(lambda _, a, kw, __: seen.append(kw["grid_thw"]), with_kwargs=True)
    try:
        comment(model, processor, GroundTruthClip("large", frames, times_s, []), StreamOptions(max_new_tokens=1))
    finally:
        hook.remove()
    assert torch.equal(seen[0], trained)
    live, _ = processor.video_processor.frames_to_patches(frames, max_pixels=384 * 28 * 28)
    assert len(live) < trained.prod()


@pytest.mark.parametrize("limits", [{"min_pixels": 78400, "max_pixels": 78400}, {"max_pixels": 60000}], ids=str)
@pytest.mark.parametrize("is_file", [True, False])
def test_frames_are_resized_once(processor, make_model, tmp_path, limits, is_file):
    """Where limits leave no whole number of patches between them, resizing again gives another size."""
    options = EncodeOptions(**limits)
    if is_file:
        video = NarratedVideo(str(write_video(tmp_path / "v.mp4", n_frames=30, size_px=(640, 360))), [Word(0, 1, "a")])
        item = NarrationItem(video, None)
        clip, sample = item.clip(processor, options), item.encode(processor, options)
        again = encode_clip(clip, processor, options)  # a clip that is already decoded
        assert torch.equal(again.model_inputs["video_grid_thw"], sample.model_inputs["video_grid_thw"])
    else:
        clip = NarratedClip(torch.zeros(6, 3, 360, 640, dtype=torch.uint8), [n / 2 for n in range(6)], [(0, 1, "a")])
        sample = encode_clip(clip, processor, options)
    seen, model = [], make_model("mrope")
    hook = model.model.visual.register_forward_hook(lambda _, a, kw, __: seen.append(kw["grid_thw"]), with_kwargs=True)
    try:
        held_out = GroundTruthClip.from_clip("v", clip)
        comment(model, processor, held_out, StreamOptions(max_new_tokens=1, **limits))
    finally:
        hook.remove()
    assert torch.equal(seen[0], sample.model_inputs["video_grid_thw"])
    assert seen[0][0, 1:].prod() * 14 * 14 <= limits["max_pixels"]


def test_a_clip_of_a_data_source(tiny_processor):
    source = NarratedClip(torch.zeros(6, 3, 28, 28, dtype=torch.uint8), range(6), [], "Go.", "A title", "Before.")
    clip = GroundTruthClip.from_clip("a.mp4", source)
    assert (clip.name, clip.query, clip.title, clip.previous) == ("a.mp4", "Go.", "A title", "Before.")
    without = GroundTruthClip.from_clip("a.mp4", source, use_context=False)
    assert (without.query, without.title, without.previous) == ("Go.", None, None)


def test_the_block_reads_in_columns():
    turns = [CommentedTurn(0.0, 3.0, "", "goal"), CommentedTurn(3.0, 4.0, "and he shoots", "")]
    assert commentary_text(200, "a.mp4 at 30.0 s", turns, 3).split("\n") == [
        'step 200, held-out clip "a.mp4 at 30.0 s"',
        '     0.0-  3.0 s   said: -                 model: "goal"',
        '     3.0-  4.0 s   said: "and he shoots"   model: -',
        "  ... 3 more turns are not commented",
    ]


def test_timing_of_a_perfect_and_of_a_silent_commentary():
    frames = torch.zeros(12, 3, 28, 28, dtype=torch.uint8)
    words = [(13.0, 13.5, "It"), (13.5, 14.0, "falls.")]  # on the frames' clock, which begins at 10 s
    clip = GroundTruthClip("a", frames, [10 + i / 2 for i in range(12)], words)
    turns = [CommentedTurn(0, 3, "", ""), CommentedTurn(3, 4, "It falls.", "It falls."), CommentedTurn(4, 5, "", "")]
    assert timing_metrics([(clip, turns)]) == {
        "eval_live_speak_f1": 1.0,
        "eval_live_speak_precision": 1.0,
        "eval_live_speak_recall": 1.0,
        "eval_live_always_speak_f1": pytest.approx(2 * 1 / (1 + 5)),
        "eval_live_onset_error_s": 0.0,
        "eval_live_words_ratio": 1.0,
    }
    silent = [CommentedTurn(turn.start_s, turn.end_s, turn.said, "") for turn in turns]
    found = timing_metrics([(clip, silent)])
    assert (found["eval_live_speak_f1"], found["eval_live_onset_error_s"]) == (0.0, 10.0)
    assert "eval_live_speak_precision" not in found  # it never speaks
