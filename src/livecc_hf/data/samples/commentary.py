"""Encodes frames and timed words as a training sample in the streaming grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, Unpack

import torch

from livecc_hf.captions.turns import TurnSpan, assign_words, split_turns, spoken_text, spoken_word
from livecc_hf.modeling.grammar import MAX_FRAMES, TURN_FRAMES, TURN_JOINT, FirstTexts, first_texts, tokenize

from .sample import IGNORE_INDEX

if TYPE_CHECKING:
    from livecc_hf.modeling import StreamingProcessor


class FrameOptions(TypedDict, total=False):
    """The arguments of `LiveCCVideoProcessor.frames_to_patches` that control resizing."""

    min_pixels: int | None
    max_pixels: int | None
    do_resize: bool


@dataclass
class CommentarySample:
    """A commentary, encoded for training.

    Attributes:
        model_inputs: `input_ids`, `labels` and `mm_token_type_ids` (L,), `pixel_values_videos` (patches, values) and
            `video_grid_thw` (turns, 3).
        turn_words: the words of each kept turn.
        n_cut_words: number of words that end after the last frame.
        n_dropped_turns: number of silent turns dropped at the end.
    """

    model_inputs: dict[str, torch.Tensor]
    turn_words: list[list[str]] = field(default_factory=list)
    n_cut_words: int = 0
    n_dropped_turns: int = 0


def encode_commentary(
    processor: StreamingProcessor,
    frames: torch.Tensor,
    frame_times_s: Sequence[float],
    words: Sequence[Sequence],
    query: str | None = None,
    title: str | None = None,
    previous: str | None = None,
    keep_trailing_silence: bool = False,
    **frame_options: Unpack[FrameOptions],
) -> CommentarySample:
    """Encode a narrated clip as a training sample in the streaming grammar.

    Args:
        processor: the model's processor.
        frames: uint8 (T, 3, H, W) at 2 frames per second; if T is odd, the last frame is repeated.
        frame_times_s: T presentation times in seconds, with which the ends of words are compared.
        words: `[start_s, end_s, word]` in the order spoken, on the same clock.
        query: the user's request; `None` for the processor's `default_query`.
        title: the video's title, which is part of the prompt if `previous` is not given.
        previous: the words spoken before the clip.
        keep_trailing_silence: keep silent turns at the end, for a model that has to learn to stop.
        frame_options: `min_pixels`, `max_pixels` (default: the clip's share of the token budget, within the processor's
            limits) and `do_resize`, as in `LiveCCVideoProcessor.frames_to_patches`.

    Returns:
        The sample; only the words and the end of each turn are supervised.

    Raises:
        ValueError: if there are no frames or more than 480, the frames have another shape or dtype, the numbers of
            frames and times differ, no word ends within the clip, or a word contains a special token.
    """
    processor.video_processor.check_frames(frames, frame_options.get("do_resize", True))
    frames, times_s = _even(frames, frame_times_s)
    grammar = processor.find_grammar()
    spans = split_turns(len(frames), grammar)
    turn_words, n_cut = assign_words(
        _clean_words(words), [times_s[span.first_frame + span.n_frames - 1] for span in spans], grammar
    )
    n_turns = len(spans)
    if not keep_trailing_silence:
        while n_turns and not turn_words[n_turns - 1]:
            n_turns -= 1
    if n_turns == 0:
        raise ValueError(
            f"none of the {len(words)} words ends between the clip's first frame at {times_s[0]:.2f} s and its "
            f"last at {times_s[-1]:.2f} s: nothing to learn; check that the times of words and frames are on one clock"
        )
    limits: FrameOptions = {
        "max_pixels": processor.video_processor.clip_limits(len(frames)).longest_edge,
        **frame_options,
    }
    texts = first_texts(processor.default_query if query is None else query, title, previous, grammar)
    inputs = _encode_turns(processor, frames, spans[:n_turns], turn_words[:n_turns], texts, limits)
    return CommentarySample(inputs, turn_words[:n_turns], n_cut, len(spans) - n_turns)


def _encode_turns(
    processor: StreamingProcessor,
    frames: torch.Tensor,
    spans: list[TurnSpan],
    turn_words: list[list[str]],
    texts: FirstTexts,
    frame_options: FrameOptions,
) -> dict[str, torch.Tensor]:
    """Return the model inputs of the turns; see `encode_commentary`."""
    input_ids: list[int] = []
    labels: list[int] = []
    patches, grids = [], []
    merge, grammar = processor.video_processor.merge_size**2, processor.find_grammar()
    for span, words in zip(spans, turn_words, strict=True):
        turn_frames = frames[span.first_frame : span.first_frame + span.n_frames]
        turn_patches, grid = processor.video_processor.frames_to_patches(turn_frames, **frame_options)
        is_first = span.first_frame == 0
        prompt = processor.turn_ids(
            span.start_s,
            span.end_s,
            len(turn_patches) // merge,
            texts.query if is_first else "",
            is_first,
            span.n_frames // TURN_FRAMES,
            texts.previous if is_first else "",
        )
        if labels:
            # Drop the joint's first token, <|im_end|>: the previous answer already ends with it, supervised.
            prompt = prompt[1:]
        spoken = [*tokenize(processor.tokenizer, processor.checked_text(spoken_text(words, grammar))), processor.end_id]
        input_ids += prompt + spoken
        labels += [IGNORE_INDEX] * len(prompt) + spoken
        patches.append(turn_patches)
        grids.append(grid)
    newline = tokenize(processor.tokenizer, TURN_JOINT)[1:]
    all_ids = torch.tensor(input_ids + newline)
    return {
        "input_ids": all_ids,
        "labels": torch.tensor(labels + [IGNORE_INDEX] * len(newline)),
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids([all_ids])[0]),
        "pixel_values_videos": torch.cat(patches),
        "video_grid_thw": torch.cat(grids),
    }


def _even(frames: torch.Tensor, frame_times_s: Sequence[float]) -> tuple[torch.Tensor, list[float]]:
    """Return frames and times, with the last one repeated if their number is odd."""
    times_s = [float(t) for t in frame_times_s]
    if len(frames) != len(times_s):
        raise ValueError(f"got {len(frames)} frames but {len(times_s)} frame times: expected one time for each frame")
    if not 0 < len(frames) <= MAX_FRAMES:
        raise ValueError(f"got {len(frames)} frames: expected 1 to {MAX_FRAMES} (240 s at 2 frames per second)")
    if len(frames) % TURN_FRAMES:
        frames, times_s = torch.cat([frames, frames[-1:]]), [*times_s, times_s[-1]]
    return frames, times_s


def _clean_words(words: Sequence[Sequence]) -> list[tuple[float, float, str]]:
    """Return the words as `spoken_word` does, without blank ones."""
    for number, item in enumerate(words):
        if not isinstance(item, Sequence) or len(item) != 3 or not isinstance(item[2], str):
            raise ValueError(f"word {number} is {item!r:.80}: expected [start_s, end_s, word]")
    return [(start, end, spoken) for start, end, word in words if (spoken := spoken_word(word))]
