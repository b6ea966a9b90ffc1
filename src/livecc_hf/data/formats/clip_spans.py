"""Splits the words of a long narrated video into clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from livecc_hf.captions.turns import join_words
from livecc_hf.modeling.grammar import FRAME_STEP_S, FRAMES_PER_SECOND, MAX_FRAMES

from ...captions.words import Word

MAX_CLIP_S = MAX_FRAMES / FRAMES_PER_SECOND
FIRST_TURN_S = 3  # the least that makes a clip
MIN_CLIP_S = 10.0  # shorter clips start earlier, in the silence before them
MAX_GAP_S = 30.0  # longest silence within a clip
PREVIOUS_WORDS = 512  # words before a clip that are its context


@dataclass(frozen=True)
class ClipSpan:
    """A clip of a narrated video.

    Attributes:
        start_s, end_s: start and end of the clip, in seconds from what a player shows as 0:00.
        words: the words spoken in it; each word of the video is in exactly one clip.
        previous: the words before the clip (at most `PREVIOUS_WORDS`); `None` for the first clip.
    """

    start_s: float
    end_s: float
    words: tuple[Word, ...]
    previous: str | None


def split_into_clips(
    words: Sequence[Word], *, max_s: float = MAX_CLIP_S, min_s: float | None = None, max_gap_s: float = MAX_GAP_S
) -> list[ClipSpan]:
    """Split a narration into clips, with each word in exactly one of them.

    A clip starts with its first word and ends one sampling step (0.5 s) after its last word, so that a frame is sampled
    after that word. A clip shorter than `min_s` starts earlier, in the silence before it.

    Args:
        words: all words of the video, ordered by their ends, as returned by `read_words`.
        max_s: longest clip, in seconds; a single word that is longer loses its beginning.
        min_s: shortest clip, in seconds, if there is enough silence before it; default: 10 s, or `max_s` if that is
            less.
        max_gap_s: longest silence within a clip, in seconds.

    Raises:
        ValueError: unless 0 <= min_s <= max_s, max_s is above 3 s, and max_gap_s is above 0.
    """
    min_s = min(MIN_CLIP_S, max_s) if min_s is None else min_s
    if not (0 <= min_s <= max_s and max_s > FIRST_TURN_S and max_gap_s > 0):
        raise ValueError(
            f"max_s={max_s}, min_s={min_s}, max_gap_s={max_gap_s}: expected 0 <= min_s <= max_s, max_s above 3 s (one "
            "turn), and max_gap_s above 0"
        )
    clips: list[ClipSpan] = []
    first = 0
    for stop in _breaks(words, max_s, max_gap_s):
        part = tuple(words[first:stop])
        end_s = part[-1].end_s + FRAME_STEP_S
        start_s = max(min(word.start_s for word in part), end_s - max_s)
        free_s = clips[-1].end_s if clips else 0.0
        start_s = min(start_s, max(end_s - min_s, free_s))
        previous = join_words(word.text for word in words[max(first - PREVIOUS_WORDS, 0) : first])
        clips.append(ClipSpan(start_s, end_s, part, previous or None))
        first = stop
    return clips


def _breaks(words: Sequence[Word], max_s: float, max_gap_s: float) -> Iterator[int]:
    """Yield the index after each clip's last word."""
    if not words:
        return
    start_s = words[0].start_s
    for index in range(1, len(words)):
        word = words[index]
        begins_s = min(start_s, word.start_s)
        is_far = word.start_s - words[index - 1].end_s > max_gap_s
        if is_far or word.end_s + FRAME_STEP_S - begins_s > max_s:
            yield index
            begins_s = word.start_s
        start_s = begins_s
    yield len(words)
