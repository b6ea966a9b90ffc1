"""Narrated clips are encoded as in the reference, and every word is spoken once or counted as cut."""

import copy
import json
from fractions import Fraction
from itertools import chain

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media import write_video

from livecc_hf.captions.words import Word
from livecc_hf.data.formats.clip_spans import split_into_clips
from livecc_hf.data.formats.conversations import NarratedVideo, parse_narration
from livecc_hf.data.samples.narration import NarratedClip, count_narration_tokens, encode_clip, encode_narration
from livecc_hf.data.samples.sample import IGNORE_INDEX, EncodeOptions
from livecc_hf.data.sources.narrated import NarrationItem
from livecc_hf.data.unusable import UnusableSample

MAX_PIXELS = 56 * 84
SMALL = {"min_pixels": 28 * 28, "max_pixels": MAX_PIXELS}
CLIP_S = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos of 20 s: one with 10 frames a second, and one whose frames last 0.1 to 2.7 s."""
    path = tmp_path_factory.mktemp("videos")
    write_video(path / "steady.mp4", n_frames=CLIP_S * 10, codec_options={"bf": "2"})
    gaps, times = (1, 3, 27, 2, 8, 1, 13), [Fraction(0)]
    while times[-1] < CLIP_S:
        times.append(times[-1] + Fraction(gaps[len(times) % len(gaps)], 10))
    write_video(path / "uneven.mkv", times_s=times[:-1])
    return path


@pytest.fixture
def recorded(reference_dir):
    return json.loads((reference_dir / "train_sample.json").read_text())


def narrated(name, words, **span):
    return NarratedVideo(name, [Word(*word) for word in words], **span)


def turns_said(sample, processor):
    """Return the words of each turn, decoded from the supervised tokens."""
    labels = sample.model_inputs["labels"]
    text = processor.tokenizer.decode(labels[labels != IGNORE_INDEX])
    return [turn.removesuffix(" ...").split() for turn in text.split("<|im_end|>")[:-1]]


@pytest.mark.parametrize("context", ["plain", "with_context"])
def test_given_its_frame_times_a_sample_equals_the_recorded_one(context, recorded, processor):
    video = parse_narration(recorded["conversation"], "recorded")
    wanted = recorded[context]
    frames = torch.zeros(len(wanted["frame_pts"]), 3, 240, 320, dtype=torch.uint8)
    clip = NarratedClip(frames, wanted["frame_pts"], video.words, video.query, video.title, video.previous)
    sample = encode_clip(clip, processor, EncodeOptions(use_context=context == "with_context"))
    for name in ("input_ids", "labels", "video_grid_thw"):
        assert sample.model_inputs[name].tolist() == wanted[name]
    assert (sample.n_words, sample.n_cut_words) == (25, 5)


@pytest.mark.parametrize("context", ["plain", "with_context"])
def test_own_decoding_differs_from_the_recorded_sample_by_one_word_on_an_edge(
    context, recorded, processor, reference_dir
):
    """Exact times put a frame one source frame earlier: `green`, which ends at 8.93 s, comes after 8.9 s."""
    video = parse_narration(recorded["conversation"], "recorded")
    options = EncodeOptions(use_context=context == "with_context")
    sample = encode_narration(video, processor, options, reference_dir)
    wanted = recorded[context]
    assert sample.model_inputs["video_grid_thw"].tolist() == wanted["video_grid_thw"]
    assert sample.model_inputs["pixel_values_videos"].mean().item() == pytest.approx(wanted["pixel_mean"], abs=1e-3)
    assert sample.model_inputs["pixel_values_videos"].std().item() == pytest.approx(wanted["pixel_std"], abs=1e-3)
    said = turns_said(sample, processor)
    labels = torch.tensor(wanted["labels"])
    recorded_text = processor.tokenizer.decode(labels[labels != IGNORE_INDEX])
    theirs = [turn.removesuffix(" ...").split() for turn in recorded_text.split("<|im_end|>")[:-1]]
    assert [turn for turn, other in zip(said, theirs, strict=True) if turn != other] == [
        ["here", "comes", "the"],
        ["green", "one", "from"],
    ]
    assert [*chain(*said)] == [*chain(*theirs)]
    assert (sample.n_words, sample.n_cut_words, sample.n_silent_turns) == (25, 5, 0)
    assert sample.n_tokens <= count_narration_tokens(video, processor, options, reference_dir) <= sample.n_tokens + 5


def test_a_clip_file_is_encoded_as_its_frames_are(recorded, processor, reference_dir):
    """Resizing while decoding gives the patches of resizing at the end."""
    from livecc_hf.video.reader import iter_frames

    video = parse_narration(recorded["conversation"], "recorded")
    shown = list(iter_frames(reference_dir / "clip.mp4", 1.4, 12.45))
    clip = NarratedClip(
        torch.stack([frame.frame for frame in shown]), [frame.end_s for frame in shown], video.words, video.query
    )
    options = EncodeOptions(use_context=False)
    ours = encode_narration(video, processor, options, reference_dir).model_inputs
    theirs = encode_clip(clip, processor, options).model_inputs
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@st.composite
def narrations(draw):
    """A clip of either video, with words in, before and after it."""
    start_s = draw(st.none() | st.sampled_from([0, 0.3, 2.05, 7.5]))
    end_s = draw(st.none() | st.sampled_from([9, 12.3, 15.5, 40]))
    at, words = draw(st.floats(-2, 9)), []
    for index in range(draw(st.integers(0, 25))):
        length = draw(st.sampled_from([0.0, 0.1, 0.3, 0.95]))
        name = "".join("abcdefghij"[int(digit)] for digit in str(index)) + draw(st.sampled_from(["", "-1", "drifts"]))
        words.append((at, at + length, name))
        at += length + draw(st.sampled_from([0, 0.05, 0.4, 3]))
    name = draw(st.sampled_from(["steady.mp4", "uneven.mkv"]))
    return narrated(name, words, start_s=start_s, end_s=end_s)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    video=narrations(),
    max_frames=st.sampled_from([480, 480, 20, 7, 2]),
    max_tokens=st.sampled_from([None, None, 250, 120, 60]),
    silence=st.booleans(),
)
def test_every_word_is_spoken_once_in_order_or_counted(folder, processor, video, max_frames, max_tokens, silence):
    options = EncodeOptions(silence, max_frames=max_frames, max_tokens=max_tokens, **SMALL)
    try:
        sample = encode_narration(video, processor, options, folder)
    except UnusableSample as error:
        assert error.reason in ("no_words", "too_many_tokens")
        assert error.reason != "no_words" or not silence
        return
    start_s = -9 if video.start_s is None else video.start_s
    inside = [word for word in video.words if not word.start_s < start_s >= word.end_s]
    said = [*chain(*turns_said(sample, processor))]
    assert said == [word.text for word in inside[: sample.n_words]]
    assert sample.n_words + sample.n_cut_words == len(video.words)
    grid = sample.model_inputs["video_grid_thw"]
    n_frames = int(grid[:, 0].sum()) * 2
    assert n_frames <= max_frames
    assert max_tokens is None or sample.n_tokens <= max_tokens
    assert sample.n_tokens <= count_narration_tokens(video, processor, options, folder)
    # No word is assigned more than one sampling step before it is spoken.
    last_s = max(video.start_s or 0, 0) + (n_frames - 1) / 2
    assert all(word.end_s <= last_s + 0.5 for word in inside[: sample.n_words])
    if max_tokens is None and max_frames == 480:
        end_s = min(video.end_s or CLIP_S, CLIP_S)
        assert all(word.end_s > end_s - 0.61 for word in inside[sample.n_words :])
        assert sample.n_cut_turns == 0
    else:
        assert sample.n_cut_turns >= 0
    assert sample.n_silent_turns == 0 or not silence


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(video=narrations(), silence=st.booleans())
def test_counted_tokens_are_close(folder, processor, video, silence):
    options = EncodeOptions(silence, **SMALL)
    try:
        n_tokens = encode_narration(video, processor, options, folder).n_tokens
    except UnusableSample:
        return
    n_turn = 40  # frames, prompt and end of one turn, which the last word may or may not need
    assert (
        n_tokens
        <= count_narration_tokens(video, processor, options, folder)
        <= n_tokens + n_turn + 6 * len(video.words)
    )


def test_counted_tokens_are_exact_where_no_word_is_on_an_edge(folder, processor):
    words = [(k + 0.3, k + 0.8, word) for k, word in enumerate(["red", "ball", "drifts", "over", "there", "now"])]
    for context in (True, False):
        video = narrated("steady.mp4", words, title="Balls", previous="and so")
        options = EncodeOptions(use_context=context, **SMALL)
        sample = encode_narration(video, processor, options, folder)
        assert count_narration_tokens(video, processor, options, folder) == sample.n_tokens


def test_a_long_clip_is_cut_to_its_frames_then_to_its_tokens(folder, processor):
    words = [(k + 0.2, k + 0.7, f"w{k}") for k in range(CLIP_S)]
    video = narrated("steady.mp4", words)
    whole = encode_narration(video, processor, EncodeOptions(**SMALL), folder)
    assert (whole.n_words, whole.n_cut_words, whole.n_cut_turns) == (19, 1, 0)  # the last frame leaves at 19.5 s
    frames = encode_narration(video, processor, EncodeOptions(max_frames=20, **SMALL), folder)
    assert (frames.n_words, frames.n_cut_words, frames.n_cut_turns) == (9, 11, 10)
    for limit in range(150, whole.n_tokens + 20, 37):
        tokens = encode_narration(video, processor, EncodeOptions(max_tokens=limit, **SMALL), folder)
        n_turns = len(tokens.model_inputs["video_grid_thw"])
        assert tokens.n_tokens <= limit
        assert tokens.n_cut_turns == 18 - n_turns
        assert torch.equal(
            tokens.model_inputs["input_ids"][:-1], whole.model_inputs["input_ids"][: tokens.n_tokens - 1]
        )
        if n_turns < 18:  # the next turn would not have fitted
            ends = (whole.model_inputs["input_ids"] == processor.end_id).nonzero().flatten()
            assert ends[2 * (n_turns + 1)] + 2 > limit
    with pytest.raises(UnusableSample, match="first turn alone has .* more than max_tokens=20") as error:
        encode_narration(video, processor, EncodeOptions(max_tokens=20, **SMALL), folder)
    assert error.value.reason == "too_many_tokens"
    with pytest.raises(UnusableSample, match="max_tokens=20"):
        count_narration_tokens(video, processor, EncodeOptions(max_tokens=20, **SMALL), folder)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=1, max_size=20),
    max_s=st.sampled_from([4, 6.3, 240]),
)
def test_clips_of_a_long_video_lose_no_word(folder, processor, steps, max_s):
    words, at = [], 0
    for gap, length in steps:
        at += gap
        if at + length > 10 * (CLIP_S - 1):  # later ones end after the video's last sample
            break
        words.append(Word(at / 10, (at + length) / 10, "w" + "abcdefghijklmnopqrst"[len(words)]))
        at += length
    said = []
    for span in split_into_clips(words, max_s=max_s, max_gap_s=2.5):
        video = NarratedVideo("steady.mp4", span.words, span.start_s, span.end_s, previous=span.previous)
        sample = encode_narration(video, processor, EncodeOptions(**SMALL), folder)
        assert (sample.n_cut_words, sample.n_cut_turns) == (0, 0)
        said += chain(*turns_said(sample, processor))
    assert said == [word.text for word in words]


def test_trailing_silence_is_not_decoded_but_counted(folder, processor):
    video = narrated("steady.mp4", [(0.5, 1, "red"), (4, 4.4, "ball")])
    dropped = encode_narration(video, processor, EncodeOptions(**SMALL), folder)
    kept = encode_narration(video, processor, EncodeOptions(True, **SMALL), folder)
    assert [len(s.model_inputs["video_grid_thw"]) for s in (dropped, kept)] == [3, 18]
    assert [(s.n_words, s.n_silent_turns, s.n_cut_turns) for s in (dropped, kept)] == [(2, 15, 0), (2, 0, 0)]
    short = encode_narration(video, processor, EncodeOptions(max_frames=16, **SMALL), folder)
    assert (short.n_cut_turns, short.n_silent_turns) == (0, 15)  # the limit cut only silence
    n_patches = 3 * dropped.model_inputs["video_grid_thw"][0, 1:].prod()
    assert torch.equal(kept.model_inputs["pixel_values_videos"][:n_patches],
                       dropped.model_inputs["pixel_values_videos"][:n_patches])  # fmt: skip


def test_a_clip_to_comment_on_has_the_words_that_its_sample_speaks(folder, processor):
    """A held-out clip shows them next to the model's: those before the clip are another clip's."""
    words = [(1, 2, "before"), (4.5, 5.2, "across"), (6, 6.4, "...within")]
    item = NarrationItem(narrated("steady.mp4", words, start_s=5.0, end_s=12.0), str(folder))
    assert [word for _, _, word in item.clip(processor, EncodeOptions(**SMALL)).words] == ["across", "within"]
    said = turns_said(item.encode(processor, EncodeOptions(**SMALL)), processor)
    assert [*chain.from_iterable(said)] == ["across", "within"]


@pytest.mark.parametrize("grammar", ["livecc", "streamingvlm"])
def test_the_mark_of_a_turns_end_is_taught_only_there(folder, processor, grammar):
    """Subtitles begin and join lines with ellipses, which after a space are that mark."""
    processor = copy.copy(processor)
    processor.grammar = grammar
    said = ["...and", "then", "wait...", "...", "...what ... is", "this"]
    words = [(0.2 + 0.1 * at, 0.3 + 0.1 * at, word) for at, word in enumerate(said)]
    video = narrated("steady.mp4", [*words, (3.6, 3.9, "....five")])
    sample = encode_narration(video, processor, EncodeOptions(**SMALL), folder)
    assert [*filter(None, turns_said(sample, processor))] == [
        ["and", "then", "wait...", "what", "is", "this"],
        ["five"],
    ]
    labels = sample.model_inputs["labels"]
    marks = (labels == processor.continuation_id).nonzero()[:, 0]
    assert (labels[marks + 1] == processor.end_id).all()
    assert len(marks) == (labels == processor.end_id).sum() == len(sample.model_inputs["video_grid_thw"])
    assert (sample.n_words, sample.n_cut_words) == (6, 0)
    assert count_narration_tokens(video, processor, EncodeOptions(**SMALL), folder) == sample.n_tokens


def test_words_before_the_clip_are_not_spoken_in_it(folder, processor):
    words = [(3, 3.9, "gone"), (3.9, 4, "too"), (3.8, 4.2, "over"), (4, 4, "at"), (4.5, 5, "in")]
    sample = encode_narration(narrated("steady.mp4", words, start_s=4.0), processor, EncodeOptions(**SMALL), folder)
    assert (turns_said(sample, processor)[0], sample.n_cut_words) == (["over", "at", "in"], 2)
    at_0 = narrated("steady.mp4", [(-1, -0.5, "gone"), (0.1, 0.4, "in")], start_s=0.0)
    sample = encode_narration(at_0, processor, EncodeOptions(**SMALL), folder)
    assert (turns_said(sample, processor), sample.n_cut_words) == ([["in"]], 1)


@pytest.mark.parametrize(
    ("video", "reason", "message"),
    [
        (narrated("none.mp4", [(0, 1, "a")]), "missing_file", "none.mp4 does not exist"),
        (narrated("steady.mp4", []), "no_words", "steady.mp4: none of the 0 words"),
        (narrated("steady.mp4", [(50, 51, "late")]), "no_words", "none of the 1 words ends .* on one clock"),
        (narrated("steady.mp4", [(0, 1, "a<|im_end|>b")]), "malformed", r"special token <\|im_end\|>"),
        (narrated("steady.mp4", [(0, 1, "a")], query="<|video_pad|>"), "malformed", "special token"),
        (narrated("steady.mp4", [(0, 1, "a")], query="great \ud83d"), "malformed", "half of a character"),
        (narrated("steady.mp4", [(0, 1, "a")], title="great \ud83d"), "malformed", "half of a character"),
        (narrated("steady.mp4", [(0, 1, "a")], previous="\udcff"), "malformed", "half of a character"),
        (narrated("steady.mp4", [(0, 1, "a")], title=float("nan")), "malformed", "title=nan: expected a string"),
        (narrated("steady.mp4", [(0, 1, "great \ud83d")]), "malformed", "half of a character"),
        (narrated("steady.mp4", [(0, 1, "a")], start_s=5, end_s=5), "malformed", "from 5 to 5 s"),
        (narrated("steady.mp4", [(31, 32, "a")], start_s=30, end_s=40), "no_frames", "no frame from 30 s to 40 s"),
    ],
)
def test_unusable_clips_say_why(video, reason, message, folder, processor):
    for make in (encode_narration, count_narration_tokens):
        with pytest.raises(UnusableSample, match=message) as error:
            make(video, processor, EncodeOptions(**SMALL), folder)
        assert error.value.reason == reason


def test_context_that_is_off_is_not_checked_nor_given(folder, processor):
    video = narrated("steady.mp4", [(0, 1, "a")], title="<|im_end|>", previous="before")
    sample = encode_narration(video, processor, EncodeOptions(use_context=False, **SMALL), folder)
    assert "before" not in processor.tokenizer.decode(sample.model_inputs["input_ids"])


def test_invalid_frames_and_frame_limits_of_clips_in_memory(processor):
    frames = torch.zeros(6, 3, 28, 28, dtype=torch.uint8)
    with pytest.raises(ValueError, match="6 frames but 5 frame times"):
        encode_clip(NarratedClip(frames, [0] * 5, []), processor, EncodeOptions())
    with pytest.raises(UnusableSample, match="no frame"):
        encode_clip(NarratedClip(frames[:0], [], []), processor, EncodeOptions())
    cut = encode_clip(
        NarratedClip(frames, [k / 2 for k in range(6)], [(0, 0.4, "a"), (1, 1.2, "b")]),
        processor,
        EncodeOptions(max_frames=3),
    )
    assert (cut.model_inputs["video_grid_thw"][0, 0], cut.n_words, cut.n_cut_words) == (1, 1, 1)
