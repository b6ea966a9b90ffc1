"""Encodes narrated clips as training samples, from video files or from frames that exist already."""

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

from livecc_hf.data.samples.commentary import FrameOptions, encode_commentary
from livecc_hf.modeling.grammar import (
    CONTINUATION,
    FRAME_STEP_S,
    TURN_FRAMES,
    TURN_JOINT,
    FirstTexts,
    TurnSpan,
    assign_words,
    first_texts,
    split_turns,
    spoken_text,
)

from ..formats.conversations import NarratedVideo
from ..media.clip_frames import ClipPlan, plan_clip, plan_frame_size, read_clip
from ..media.paths import resolve_media
from ..unusable import UnusableSample
from .sample import EncodeOptions, Sample

if TYPE_CHECKING:
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

# Sums of float times differ in their last digits.
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class NarratedClip:
    """One clip with the words spoken in it.

    Args:
        frames: uint8 (T, 3, H, W) at 2 frames a second.
        frame_times_s: T presentation times in seconds.
        words: ``(start_s, end_s, word)`` in the order spoken, on the clock of the frames.
        query: the request; the processor's default if None.
        title: the video's title.
        previous: what was said before the clip.
        is_resized: whether the frames have the model's input size already, and are not resized again.
    """

    frames: torch.Tensor
    frame_times_s: Sequence[float]
    words: Sequence[Sequence]
    query: str | None = None
    title: str | None = None
    previous: str | None = None
    is_resized: bool = False


@dataclass(frozen=True)
class _Shown:
    """The frames of a clip for the model, and facts of the clip before it was cut.

    Attributes:
        frames, times_s, frame_options: as in `encode_commentary`.
        n_pair_tokens: tokens of two frames.
        n_turns: turns of the whole clip, before the cut to the frame limit.
        end_s: the last sample time of the whole clip; words between the last frame and this time were cut by a limit.
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
    """Find a clip's file, and plan its frames from the header.

    Raises:
        UnusableSample: "missing_file", "unreadable_media", "no_frames" or "malformed".
    """
    try:
        path = resolve_media(video.video, media_root)
    except FileNotFoundError as error:
        raise UnusableSample("missing_file", str(error)) from error
    except ValueError as error:
        raise UnusableSample("malformed", str(error)) from error
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

    The clip is cut to `options.max_frames`, then whole turns are dropped from its end until it has at most
    `options.max_tokens` tokens. Words that begin and end before the clip are left out.

    Args:
        video: the clip.
        processor: makes tokens and patches.
        options: of the encoding.
        media_root: root of the video's path; see `resolve_media`.

    Raises:
        UnusableSample: for one of `livecc_hf.data.unusable.REASONS`.
    """
    path, plan = locate_clip(video, processor, options, media_root)
    words = _words_from(video.words, video.start_s)
    texts = _first_texts(video, processor, options, words)
    if not words and not options.keep_trailing_silence:
        raise _no_words(video, plan.first_s)
    n_turns = len(split_turns(plan.n_uncut_frames, processor.find_grammar()))
    clip_end_s = plan.first_s + (plan.n_uncut_frames - 1) * FRAME_STEP_S
    until_s = None if options.keep_trailing_silence else max(word[1] for word in words)
    fitting = _without_hopeless_turns(plan, processor, options.max_tokens)
    clip = read_clip(path, fitting, processor.video_processor, until_s)
    shown = _Shown(clip.frames, clip.end_times_s, {"do_resize": False}, plan.n_pair_tokens, n_turns, clip_end_s)
    sample = _encode(shown, words, texts, video, processor, options)
    sample.n_cut_words += _count_words(video.words) - len(words)
    return sample


def encode_clip(clip: NarratedClip, processor: StreamingProcessor, options: EncodeOptions) -> Sample:
    """Encode a clip whose frames exist already as a training sample, cut like in `encode_narration`.

    Raises:
        UnusableSample: for one of `livecc_hf.data.unusable.REASONS`.
        ValueError: if frames and times do not match, or the frames are not uint8 (T, 3, H, W).
    """
    processor.video_processor.check_frames(clip.frames, do_resize=not clip.is_resized)
    if len(clip.frames) != len(clip.frame_times_s):
        raise ValueError(f"got {len(clip.frames)} frames but {len(clip.frame_times_s)} frame times: expected as many")
    if not len(clip.frames):
        raise UnusableSample("no_frames", "the clip has no frame")
    n_frames = min(len(clip.frames), options.max_frames - options.max_frames % TURN_FRAMES)
    n_even = n_frames + -n_frames % TURN_FRAMES
    limits: FrameOptions
    if clip.is_resized:
        limits = {"do_resize": False}
        side_px = processor.video_processor.patch_size * processor.video_processor.merge_size
        n_pair_tokens = math.prod(clip.frames.shape[-2:]) // side_px**2
    else:
        height_px, width_px = clip.frames.shape[-2:]
        size = plan_frame_size(
            height_px, width_px, n_even, processor.video_processor, options.min_pixels, options.max_pixels
        )
        limits = {"min_pixels": size.min_pixels, "max_pixels": size.max_pixels}
        n_pair_tokens = size.n_pair_tokens
    words = _words_from(clip.words, clip.frame_times_s[0])
    texts = _first_texts(clip, processor, options, words)
    shown = _Shown(
        clip.frames[:n_frames],
        clip.frame_times_s[:n_frames],
        limits,
        n_pair_tokens,
        len(split_turns(len(clip.frames) + len(clip.frames) % TURN_FRAMES, processor.find_grammar())),
        clip.frame_times_s[-1],
    )
    sample = _encode(shown, words, texts, clip, processor, options)
    sample.n_cut_words += _count_words(clip.words) - len(words)
    return sample


def count_narration_tokens(
    video: NarratedVideo,
    processor: StreamingProcessor,
    options: EncodeOptions,
    media_root: str | os.PathLike | None = None,
) -> int:
    """Return an upper bound of the tokens of `encode_narration`, from the video's header and words alone.

    Frames, prompts and words are counted exactly, except words that end right after a turn's last sample time: only
    decoding shows whether they belong to that turn. They count with the longer of their two token sequences, at the
    begin of a turn or within it. A sample is longer than this only if the first frames of a file cannot be decoded.

    Raises:
        UnusableSample: if the header and the words show that `encode_narration` will raise it.
    """
    _path, plan = locate_clip(video, processor, options, media_root)
    words = _words_from(video.words, video.start_s)
    texts = _first_texts(video, processor, options, words)
    _without_hopeless_turns(plan, processor, options.max_tokens)
    grammar = processor.find_grammar()
    spans = split_turns(plan.n_frames, grammar)
    words = [word for word in words if word[1] <= plan.last_s + plan.hold_s + grammar.word_slack_s]
    latest, earliest = _turn_range(words, spans, plan, grammar.word_slack_s)
    if not options.keep_trailing_silence:
        if not words:
            raise _no_words(video, plan.first_s)
        spans = spans[: latest[-1] + 1]
    prompts = _prompt_lengths(spans, plan.n_pair_tokens, texts, processor)
    n_silence = len(_token_ids([CONTINUATION + TURN_JOINT], processor)[0])
    if options.max_tokens is not None and prompts[0] + n_silence > options.max_tokens:
        _check_fit(0, prompts[0] + n_silence, options.max_tokens)
    n_tokens = sum(prompts) + len(spans) * n_silence
    n_tokens -= 2 * (len(spans) - 1)  # the end of a turn and the line break after it are part of the next prompt
    forms = _token_ids(
        [form for _start, _end, word in words for form in (grammar.word_lead + word, " " + word)], processor
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
    """Return the latest and the earliest turn to which each word can belong.

    A frame leaves the screen at its sample time or up to `hold_s` later, and words may end `slack_s` after that.
    """
    times_s = [min(plan.first_s + (span.first_frame + span.n_frames - 1) * FRAME_STEP_S, plan.last_s) for span in spans]
    ends_s = list(accumulate((word[1] - slack_s for word in words), max))  # turns never go back, even if words overlap
    latest = [min(bisect_left(times_s, end_s), len(spans) - 1) for end_s in ends_s]
    earliest = [bisect_left(times_s, end_s - plan.hold_s - _ROUNDING_S) for end_s in ends_s]
    return latest, [min(low, high) for low, high in zip(earliest, latest, strict=True)]


def _encode(
    shown: _Shown,
    words: list[tuple[float, float, str]],
    texts: FirstTexts,
    clip: NarratedVideo | NarratedClip,
    processor: StreamingProcessor,
    options: EncodeOptions,
) -> Sample:
    """Cut a clip to the token limit and encode it; `words` leaves out those that end before the clip."""
    n_frames = len(shown.frames)
    grammar = processor.find_grammar()
    spans = split_turns(n_frames + n_frames % TURN_FRAMES, grammar)
    ends = [min(span.first_frame + span.n_frames, n_frames) for span in spans]
    turn_words, _n_cut = assign_words(words, [shown.times_s[end - 1] for end in ends], grammar)
    spoken = turn_words if options.keep_trailing_silence else _without_silence(turn_words)
    kept = spoken[: _n_fitting(spans, spoken, shown, texts, processor, options.max_tokens)]
    if not options.keep_trailing_silence:
        kept = _without_silence(kept)
        if not kept:
            raise _no_words(clip, shown.times_s[0])
    n_words = sum(map(len, kept))
    n_unseen = shown.n_turns - len(spans)
    seen_s = shown.times_s[-1] + grammar.word_slack_s
    is_lost = options.keep_trailing_silence or any(seen_s < end_s <= shown.end_s for _, end_s, _ in words)
    n_cut_turns = len(spoken) - len(kept) + (n_unseen if is_lost else 0)
    last = ends[len(kept) - 1]
    sample = encode_commentary(
        processor,
        shown.frames[:last],
        shown.times_s[:last],
        words[:n_words],
        query=clip.query,
        title=clip.title if options.use_context else None,
        previous=clip.previous if options.use_context else None,
        keep_trailing_silence=options.keep_trailing_silence,
        **shown.frame_options,
    )
    n_silent_turns = shown.n_turns - len(kept) - n_cut_turns
    return Sample(sample.model_inputs, n_words, len(words) - n_words, n_cut_turns, n_silent_turns)


def _n_fitting(
    spans: list[TurnSpan],
    turn_words: list[list[str]],
    shown: _Shown,
    texts: FirstTexts,
    processor: StreamingProcessor,
    max_tokens: int | None,
) -> int:
    """Return the number of turns that fit the token limit."""
    if max_tokens is None or not turn_words:
        return len(turn_words)
    grammar = processor.find_grammar()
    answers = _token_ids([spoken_text(words, grammar) + TURN_JOINT for words in turn_words], processor)
    prompts = _prompt_lengths(spans[: len(turn_words)], shown.n_pair_tokens, texts, processor)
    n_tokens = 0
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        # The end of a turn and the line break after it count in the next prompt, except for the last turn.
        n_tokens += prompt + len(answer) - (2 if index else 0)
        if n_tokens > max_tokens:
            return _check_fit(index, n_tokens, max_tokens)
    return len(turn_words)


def _check_fit(n_turns: int, n_tokens: int, max_tokens: int) -> int:
    if n_turns == 0:
        raise UnusableSample(
            "too_many_tokens",
            f"the clip's first turn alone has {n_tokens} tokens, more than max_tokens={max_tokens}: lower max_pixels, "
            "or raise the limit",
        )
    return n_turns


def _prompt_lengths(
    spans: list[TurnSpan], n_pair_tokens: int, texts: FirstTexts, processor: StreamingProcessor
) -> list[int]:
    """Return the tokens of each user message, with the joint before it and its frames."""
    lengths = []
    for span in spans:
        is_first, n_pairs = span.first_frame == 0, span.n_frames // TURN_FRAMES
        query, previous = texts if is_first else FirstTexts("")
        ids = processor.turn_ids(span.start_s, span.end_s, 0, query, is_first, n_pairs, previous)
        lengths.append(len(ids) + n_pairs * n_pair_tokens)
    return lengths


def _token_ids(texts: list[str], processor: StreamingProcessor) -> list[list[int]]:
    return processor.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def _without_hopeless_turns(plan: ClipPlan, processor: StreamingProcessor, max_tokens: int | None) -> ClipPlan:
    """Return the plan without turns whose frames alone exceed the token limit, so that they are not decoded."""
    if max_tokens is None:
        return plan
    n_frames = max_tokens // plan.n_pair_tokens * TURN_FRAMES
    first = min(processor.find_grammar().first_turn_frames, plan.n_frames)
    if n_frames < first:
        _check_fit(0, first // TURN_FRAMES * plan.n_pair_tokens, max_tokens)
    return replace(plan, n_frames=min(plan.n_frames, n_frames), n_sampled=min(plan.n_sampled, n_frames))


def _without_silence(turn_words: list[list[str]]) -> list[list[str]]:
    n_turns = len(turn_words)
    while n_turns and not turn_words[n_turns - 1]:
        n_turns -= 1
    return turn_words[:n_turns]


def _words_from(words: Sequence[Sequence], start_s: float | None) -> list[tuple[float, float, str]]:
    """Return the words that are not blank, and that do not both begin and end before the clip."""
    kept = ((start, end, str(word).strip()) for start, end, word in words)
    return [word for word in kept if word[2] and not (start_s is not None and word[0] < start_s >= word[1])]


def _count_words(words: Sequence[Sequence]) -> int:
    return sum(bool(str(word).strip()) for _start, _end, word in words)


def _first_texts(
    clip: NarratedVideo | NarratedClip,
    processor: StreamingProcessor,
    options: EncodeOptions,
    words: list[tuple[float, float, str]],
) -> FirstTexts:
    """Return the texts of the first turn; check that neither they nor the words hold control tokens."""
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
        "learn; check that words and frames are on one clock",
    )
