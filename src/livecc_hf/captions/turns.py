"""How the words of a video become the turns of a commentary; what training and evaluation need beside the grammar."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..modeling.grammar import CONTINUATION, FRAMES_PER_SECOND, LIVECC, TURN_FRAMES, Grammar

# Thai, Lao, Burmese, Khmer, kana and Chinese characters and punctuation: written without spaces.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f\u3001-\u303f\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60\uff66-\uff9f\U00020000-\U0003ffff"
)
_NEEDLESS_SPACE = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")
_PAUSE = re.compile(r"(?<!\S)\.{3,}\s*")


@dataclass(frozen=True)
class TurnSpan:
    """The frames and the time span of one turn.

    Attributes:
        first_frame: index of the turn's first frame.
        n_frames: frames in the turn.
        start_s: start in seconds from the stream's start.
        end_s: end in seconds from the stream's start.
    """

    first_frame: int
    n_frames: int
    start_s: float
    end_s: float


def split_turns(n_frames: int, grammar: Grammar = LIVECC) -> list[TurnSpan]:
    """Split the frames of a stream without gaps into turns.

    Args:
        n_frames: an even number of frames; a first turn shorter than 3 s keeps its 3 s label.
        grammar: the model's grammar.

    Raises:
        ValueError: if `n_frames` is odd or not positive.
    """
    if n_frames <= 0 or n_frames % TURN_FRAMES:
        raise ValueError(
            f"got {n_frames} frames, expected a positive multiple of {TURN_FRAMES}: repeat the last frame "
            "of an odd count"
        )
    turns = []
    first_frame, n_full = 0, grammar.first_turn_frames
    while first_frame < n_frames:
        start_s = first_frame / FRAMES_PER_SECOND
        n_here = min(n_full, n_frames - first_frame)
        turns.append(TurnSpan(first_frame, n_here, start_s, start_s + n_full / FRAMES_PER_SECOND))
        first_frame, n_full = first_frame + n_here, TURN_FRAMES
    return turns


def spoken_text(words: Iterable[str], grammar: Grammar = LIVECC) -> str:
    """Return the assistant's text in a turn: the words, then :data:`CONTINUATION`; only that for a silent turn."""
    text = join_words(words)
    return (grammar.word_lead + text if text else "") + CONTINUATION


def spoken_word(text: str) -> str:
    """Return a word as it can be taught: stripped, and without an ellipsis before it; may be empty.

    After a space, an ellipsis is :data:`CONTINUATION`: a stream would take it for the end of the turn, and never say
    the words after it.
    """
    return _PAUSE.sub("", text).strip()


def join_words(words: Iterable[str]) -> str:
    """Join words with spaces, except between characters of scripts without spaces, such as Chinese."""
    text = " ".join(words)
    return text if text.isascii() else _NEEDLESS_SPACE.sub("", text)


def assign_words(
    words: Sequence[Sequence], last_frame_times_s: Sequence[float], grammar: Grammar = LIVECC
) -> tuple[list[list[str]], int]:
    """Assign each word to the first turn whose last frame is not earlier than the word's end.

    Words that end after the last turn's last frame are cut, and counted.

    Args:
        words: ``[start_s, end_s, word]`` in the order spoken, on the clock of `last_frame_times_s`.
        last_frame_times_s: the presentation time of each turn's last frame, in seconds, not decreasing.
        grammar: the model's grammar; its `word_slack_s` lets words end later.

    Returns:
        The words of each turn, and the number of cut words.
    """
    turns: list[list[str]] = []
    i = 0
    for last_s in last_frame_times_s:
        spoken = []
        while i < len(words) and words[i][1] <= last_s + grammar.word_slack_s:
            spoken.append(words[i][2])
            i += 1
        turns.append(spoken)
    return turns, len(words) - i
