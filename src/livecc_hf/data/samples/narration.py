"""Encodes narrated clips as training samples, from video files or from frames in memory."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from livecc_hf.captions.turns import TurnSpan, assign_words, split_turns, spoken_text, spoken_word
from livecc_hf.modeling.grammar import (
    CONTINUATION,
    FRAME_STEP_S,
    TURN_FRAMES,
    TURN_JOINT,
    FirstTexts,
    first_texts,
    tokenize,
)

from ..formats.conversations import NarratedVideo
from ..media.clip_frames import ClipPlan, plan_clip, plan_frame_size, read_clip, round_up_to_pairs
from ..media.paths import find_media
from ..unusable import UnusableSample
from .commentary import FrameOptions, encode_commentary
from .sample import EncodeOptions, Sample

if TYPE_CHECKING:
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

# Tolerance for rounding errors in sums of times.
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class NarratedClip:
    """The frames of a clip, and the words spoken in it.

    Args:
        frames: uint8 (T, 3, H, W) at 2 frames a second.
        frame_times_s: T presentation times in seconds, with which the ends of words are compared.
        words: ``(start_s, end_s, word)`` in the order spoken, on the same clock as `frame_times_s`.
        query: the user's request; `None` for the processor's default.
        title: the video's title.
        previous: the words spoken before the clip.
        is_resized: whether the frames already have the model's input size, and must not be resized again.
    """

    frames: torch.Tensor
    frame_times_s: Sequence[float]
    words: Sequence[Sequence]
    query: str | None = None
    title: str | None = None
    previous: str | None = None
    is_resized: bool = False


@dataclass(frozen=True)
class _LoadedClip:
    """The frames of a clip, and properties of the clip before it was cut to the frame limit.

    Attributes:
        frames, times_s, frame_options: as in `encode_commentary`.
        n_pair_tokens: tokens of two frames.
        n_turns: turns of the uncut clip.
        end_s: last sample time of the uncut clip; words between the last frame and this time were cut by the limit.
    """

    frames: torch.Tensor
    times_s: Sequence[float]
    frame_options: FrameOptions
    n_pair_tokens: int
    n_turns: int
    end_s: float


def locate_clip(
    video: NarratedVideo, processor: StreamingProcessor, options: EncodeOptions, media_root: str | os.PathLike | None
) -> tuple[Path, ClipPlan]:
    """Locate a clip's file, and plan its frames; takes the arguments of `encode_narration`.

    Raises:
        UnusableSample: "missing_file", "unreadable_media", "no_frames" or "malformed".
    """
    path = find_media(video.video, media_root)
    plan = plan_clip(
        path,
        video.start_s,
        video.end_s,
        processor.video_processor,
        min_pixels=options.min_pixels,
        max_pixels=options.max_pixels,
        max_frames=options.max_frames,
    )
    return path, plan


def encode_narration(
    video: NarratedVideo,
    processor: StreamingProcessor,
    options: EncodeOptions,
    media_root: str | os.PathLike | None = None,
) -> Sample:
    """Encode a clip of a video file as a training sample.

    The clip is cut to `options.max_frames`, and then loses turns at its end until it has at most `options.max_tokens`
    tokens. Words that both start and end before the clip are left out.

    Args:
        video: the clip.
        processor: the model's processor.
        options: encoding options.
        media_root: root of the video's path; see `resolve_media`.

    Raises:
        UnusableSample: for one of `livecc_hf.data.unusable.REASONS`.
    """
    path, plan = locate_clip(video, processor, options, media_root)
    words = words_from(video.words, video.start_s)
    texts = _first_texts(video, processor, options, words)
    if not words and not options.keep_trailing_silence:
        raise _no_words(video, plan.first_s)
    n_turns = len(split_turns(plan.n_uncut_frames, processor.find_grammar()))
    clip_end_s = plan.first_s + (plan.n_uncut_frames - 1) * FRAME_STEP_S
    until_s = None if options.keep_trailing_silence else max(word[1] for word in words)
    clip = read_clip(path, _limit_frames(plan, processor, options.max_tokens), processor.video_processor, until_s)
    loaded = _LoadedClip(clip.frames, clip.end_times_s, {"do_resize": False}, plan.n_pair_tokens, n_turns, clip_end_s)
    sample = _encode(loaded, words, texts, video, processor, options)
    sample.n_cut_words += _count_words(video.words) - len(words)
    return sample


def encode_clip(clip: NarratedClip, processor: StreamingProcessor, options: EncodeOptions) -> Sample:
    """Encode a clip whose frames are in memory as a training sample, cut as in `encode_narration`.

    Raises:
        UnusableSample: for one of `livecc_hf.data.unusable.REASONS`.
        ValueError: if the numbers of frames and times differ, or the frames are not uint8 (T, 3, H, W).
    """
    processor.video_processor.check_frames(clip.frames, do_resize=not clip.is_resized)
    if len(clip.frames) != len(clip.frame_times_s):
        raise ValueError(f"got {len(clip.frames)} frames but {len(clip.frame_times_s)} frame times: expected one each")
    if not len(clip.frames):
        raise UnusableSample("no_frames", "the clip has no frame")
    n_frames = min(len(clip.frames), options.max_frames - options.max_frames % TURN_FRAMES)
    limits: FrameOptions
    if clip.is_resized:
        limits = {"do_resize": False}
        side_px = processor.video_processor.patch_size * processor.video_processor.merge_size
        n_pair_tokens = math.prod(clip.frames.shape[-2:]) // side_px**2
    else:
        height_px, width_px = clip.frames.shape[-2:]
        n_even = round_up_to_pairs(n_frames)
        size = plan_frame_size(
            height_px, width_px, n_even, processor.video_processor, options.min_pixels, options.max_pixels
        )
        limits = {"min_pixels": size.min_pixels, "max_pixels": size.max_pixels}
        n_pair_tokens = size.n_pair_tokens
    words = words_from(clip.words, clip.frame_times_s[0])
    texts = _first_texts(clip, processor, options, words)
    loaded = _LoadedClip(
        clip.frames[:n_frames],
        clip.frame_times_s[:n_frames],
        limits,
        n_pair_tokens,
        len(split_turns(round_up_to_pairs(len(clip.frames)), processor.find_grammar())),
        clip.frame_times_s[-1],
    )
    sample = _encode(loaded, words, texts, clip, processor, options)
    sample.n_cut_words += _count_words(clip.words) - len(words)
    return sample


def count_narration_tokens(
    video: NarratedVideo,
    processor: StreamingProcessor,
    options: EncodeOptions,
    media_root: str | os.PathLike | None = None,
) -> int:
    """Return an upper bound for the tokens of `encode_narration`, without decoding.

    The arguments are those of `encode_narration`. Frames, prompts and words are counted exactly from the video's header
    and the words, except for words that end shortly after the last sample time of a turn: only decoding shows whether
    they belong to that turn or the next. Such a word counts with the longer of its tokenisations at the start of a turn
    and within a turn. A sample can be longer than the bound only if the first frames of its file cannot be decoded.

    Raises:
        UnusableSample: if the header and the words show that `encode_narration` will raise it.
    """
    _path, plan = locate_clip(video, processor, options, media_root)
    words = words_from(video.words, video.start_s)
    texts = _first_texts(video, processor, options, words)
    _limit_frames(plan, processor, options.max_tokens)  # raises if even the first turn does not fit
    grammar = processor.find_grammar()
    spans = split_turns(plan.n_frames, grammar)
    words = [word for word in words if word[1] <= plan.last_s + plan.hold_s + grammar.word_slack_s]
    latest, earliest = _turn_range(words, spans, plan, grammar.word_slack_s)
    if not options.keep_trailing_silence:
        if not words:
            raise _no_words(video, plan.first_s)
        spans = spans[: latest[-1] + 1]
    prompts = _prompt_lengths(spans, plan.n_pair_tokens, texts, processor)
    n_silence = len(tokenize(processor.tokenizer, CONTINUATION + TURN_JOINT))
    if options.max_tokens is not None and prompts[0] + n_silence > options.max_tokens:
        raise _too_many_tokens(prompts[0] + n_silence, options.max_tokens)
    n_tokens = sum(prompts) + len(spans) * n_silence
    n_tokens -= 2 * (len(spans) - 1)  # the end of a turn and the line break after it are part of the next prompt
    forms = tokenize(
        processor.tokenizer,
        [form for _start, _end, word in words for form in (grammar.word_lead + word, " " + word)],
    )
    before = None
    for begin, within, turns in zip(forms[::2], forms[1::2], zip(earliest, latest, strict=True), strict=True):
        if turns[0] != turns[1] or (before is not None and before[0] != before[1]):
            n_tokens += max(len(begin), len(within))
        else:
            n_tokens += len(within if before == turns else begin)
        before = turns
    return n_tokens if options.max_tokens is None else min(n_tokens, options.max_tokens)


def _turn_range(
    words: list[tuple[float, float, str]], spans: list[TurnSpan], plan: ClipPlan, slack_s: float
) -> tuple[list[int], list[int]]:
    """Return the latest and the earliest turn that each word may belong to.

    A frame leaves the screen between its sample time and `plan.hold_s` later, and a word of its turn may end `slack_s`
    after that.
    """
    times_s = [min(plan.first_s + (span.first_frame + span.n_frames - 1) * FRAME_STEP_S, plan.last_s) for span in spans]
    ends_s = list(accumulate((word[1] - slack_s for word in words), max))  # words stay in order even if they overlap
    latest = [min(bisect_left(times_s, end_s), len(spans) - 1) for end_s in ends_s]
    earliest = [bisect_left(times_s, end_s - plan.hold_s - _ROUNDING_S) for end_s in ends_s]
    return latest, [min(low, high) for low, high in zip(earliest, latest, strict=True)]


def _encode(
    loaded: _LoadedClip,
    words: list[tuple[float, float, str]],
    texts: FirstTexts,
    clip: NarratedVideo | NarratedClip,
    processor: StreamingProcessor,
    options: EncodeOptions,
) -> Sample:
    """Cut a clip to the token limit and encode it; `words` are those of `words_from`."""
    n_frames = len(loaded.frames)
    grammar = processor.find_grammar()
    spans = split_turns(round_up_to_pairs(n_frames), grammar)
    ends = [min(span.first_frame + span.n_frames, n_frames) for span in spans]
    turn_words, _n_cut = assign_words(words, [loaded.times_s[end - 1] for end in ends], grammar)
    spoken = turn_words if options.keep_trailing_silence else _without_silence(turn_words)
    kept = spoken[: _n_fitting(spans, spoken, loaded, texts, processor, options.max_tokens)]
    if not options.keep_trailing_silence:
        kept = _without_silence(kept)
        if not kept:
            raise _no_words(clip, loaded.times_s[0])
    n_words = sum(map(len, kept))
    n_unseen = loaded.n_turns - len(spans)
    seen_s = loaded.times_s[-1] + grammar.word_slack_s
    is_lost = options.keep_trailing_silence or any(seen_s < end_s <= loaded.end_s for _, end_s, _ in words)
    n_cut_turns = len(spoken) - len(kept) + (n_unseen if is_lost else 0)
    last = ends[len(kept) - 1]
    sample = encode_commentary(
        processor,
        loaded.frames[:last],
        loaded.times_s[:last],
        words[:n_words],
        query=clip.query,
        title=clip.title if options.use_context else None,
        previous=clip.previous if options.use_context else None,
        keep_trailing_silence=options.keep_trailing_silence,
        **loaded.frame_options,
    )
    n_silent_turns = loaded.n_turns - len(kept) - n_cut_turns
    return Sample(sample.model_inputs, n_words, len(words) - n_words, n_cut_turns, n_silent_turns)


def _n_fitting(
    spans: list[TurnSpan],
    turn_words: list[list[str]],
    loaded: _LoadedClip,
    texts: FirstTexts,
    processor: StreamingProcessor,
    max_tokens: int | None,
) -> int:
    """Return the number of turns that fit the token limit; raise `UnusableSample` if it is 0."""
    if max_tokens is None or not turn_words:
        return len(turn_words)
    grammar = processor.find_grammar()
    answers = tokenize(processor.tokenizer, [spoken_text(words, grammar) + TURN_JOINT for words in turn_words])
    prompts = _prompt_lengths(spans[: len(turn_words)], loaded.n_pair_tokens, texts, processor)
    n_tokens = 0
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        # The end token of a turn and the line break after it are also part of the next prompt.
        n_tokens += prompt + len(answer) - (2 if index else 0)
        if n_tokens > max_tokens:
            if index == 0:
                raise _too_many_tokens(n_tokens, max_tokens)
            return index
    return len(turn_words)


def _too_many_tokens(n_tokens: int, max_tokens: int) -> UnusableSample:
    return UnusableSample(
        "too_many_tokens",
        f"the clip's first turn alone has {n_tokens} tokens, more than max_tokens={max_tokens}: lower max_pixels, or "
        "raise the limit",
    )


def _prompt_lengths(
    spans: list[TurnSpan], n_pair_tokens: int, texts: FirstTexts, processor: StreamingProcessor
) -> list[int]:
    """Return the number of tokens of each user message, including its frames and the joint before it."""
    lengths = []
    for span in spans:
        is_first, n_pairs = span.first_frame == 0, span.n_frames // TURN_FRAMES
        query, previous = texts if is_first else FirstTexts("")
        ids = processor.turn_ids(span.start_s, span.end_s, 0, query, is_first, n_pairs, previous)
        lengths.append(len(ids) + n_pairs * n_pair_tokens)
    return lengths


def _limit_frames(plan: ClipPlan, processor: StreamingProcessor, max_tokens: int | None) -> ClipPlan:
    """Cut a plan to the frames that fit the limit; raise `UnusableSample` if no turn does."""
    if max_tokens is None:
        return plan
    n_frames = max_tokens // plan.n_pair_tokens * TURN_FRAMES
    n_first = min(processor.find_grammar().first_turn_frames, plan.n_frames)
    if n_frames < n_first:
        raise _too_many_tokens(n_first // TURN_FRAMES * plan.n_pair_tokens, max_tokens)
    return replace(plan, n_frames=min(plan.n_frames, n_frames), n_sampled=min(plan.n_sampled, n_frames))


def _without_silence(turn_words: list[list[str]]) -> list[list[str]]:
    n_turns = len(turn_words)
    while n_turns and not turn_words[n_turns - 1]:
        n_turns -= 1
    return turn_words[:n_turns]


def words_from(words: Sequence[Sequence], start_s: float | None) -> list[tuple[float, float, str]]:
    """Return the words without blank ones, and without those that both start and end before the clip."""
    kept = ((start, end, spoken_word(str(word))) for start, end, word in words)
    return [word for word in kept if word[2] and not (start_s is not None and word[0] < start_s >= word[1])]


def _count_words(words: Sequence[Sequence]) -> int:
    return sum(bool(spoken_word(str(word))) for _start, _end, word in words)


def _first_texts(
    clip: NarratedVideo | NarratedClip,
    processor: StreamingProcessor,
    options: EncodeOptions,
    words: list[tuple[float, float, str]],
) -> FirstTexts:
    """Return the first turn's texts; raise `UnusableSample` if texts or words are malformed."""
    query = processor.default_query if clip.query is None else clip.query
    try:
        context = (clip.title, clip.previous) if options.use_context else (None, None)
        texts = first_texts(query, *context, processor.find_grammar())
        for text in texts:
            processor.checked_text(text)
        for _start, _end, word in words:
            processor.checked_text(word)
    except ValueError as error:
        raise UnusableSample("malformed", str(error)) from error
    return texts


def _no_words(clip: NarratedVideo | NarratedClip, first_s: float) -> UnusableSample:
    name = f"{clip.video}: " if isinstance(clip, NarratedVideo) else ""
    return UnusableSample(
        "no_words",
        f"{name}none of the {len(clip.words)} words ends within the clip's frames, from {first_s:.2f} s on: nothing to "
        "learn; check that the times of words and frames are on one clock",
    )
