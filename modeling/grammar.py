"""The streaming grammar: how video time, frames and spoken words become the turns of a conversation.

A commentary is a chat. Each user turn shows the frames of a short span of time, and the assistant answers
with the words spoken in that span, followed by :data:`CONTINUATION`. The first turn spans 3 s, each later
one 1 s, at 2 frames per second. This module knows text and numbers only: no tokens, no tensors.

The default grammar is that of LiveCC (arXiv 2504.16030, section 3), kept byte for byte so that its released weights
and datasets work. Models that were trained with other texts have a `Grammar` of their own; what it does not name is as
in LiveCC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

FRAMES_PER_SECOND = 2
FIRST_TURN_FRAMES = 6
TURN_FRAMES = 2
FRAME_STEP_S = 1 / FRAMES_PER_SECOND

MAX_FRAMES = 480  # 240 s
PIXELS_PER_TOKEN = 28 * 28  # a merged 2x2 block of 14-pixel patches
MIN_FRAME_TOKENS, MAX_FRAME_TOKENS = 100, 768  # of a frame pair
MIN_FRAME_PIXELS = MIN_FRAME_TOKENS * PIXELS_PER_TOKEN
MAX_FRAME_PIXELS = MAX_FRAME_TOKENS * PIXELS_PER_TOKEN
VIDEO_TOKEN_BUDGET = 24576

CONTINUATION = " ..."
SYSTEM_PROMPT = "You are a helpful assistant."
DEFAULT_QUERY = "Please describe the video."

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
VIDEO_PAD = "<|video_pad|>"

# Thai, Lao, Burmese, Khmer, kana and Chinese characters, and their marks: no spaces stand between them.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f\u3001-\u303f\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60\uff66-\uff9f\U00020000-\U0003ffff"
)
_NEEDLESS_SPACE = re.compile(f"(?<=[{UNSPACED}]) (?=[{UNSPACED}])")

PROMPT_START = f"{IM_START}system\n{SYSTEM_PROMPT}{IM_END}\n"  # see `prompt_start`
TURN_JOINT = f"{IM_END}\n"
ANSWER_START = f"{IM_START}assistant\n"


@dataclass(frozen=True)
class Grammar:
    """How a commentary is written as a chat, where models differ.

    Attributes:
        name: the `grammar` of a processor.
        first_turn_frames: frames of a stream's first turn; each later one has `TURN_FRAMES`.
        previous_role: role of a message between system prompt and first turn that holds what was said before the
            stream, also where that is nothing; `None`: it stands behind the query.
        word_lead: what stands before the first word of a turn.
        word_slack_s: how long after its last frame's time a turn's words may end, in seconds.
    """

    name: str
    first_turn_frames: int = FIRST_TURN_FRAMES
    previous_role: str | None = None
    word_lead: str = ""
    word_slack_s: float = 0.0


LIVECC = Grammar("livecc")
# StreamingVLM (arXiv 2510.09608), as its inference writes it: turns of 1 s from the start, whose words end with the
# turn and are each led by a space.
STREAMINGVLM = Grammar("streamingvlm", TURN_FRAMES, "previous text", " ", FRAME_STEP_S)
GRAMMARS = {grammar.name: grammar for grammar in (LIVECC, STREAMINGVLM)}


def find_grammar(name: Any) -> Grammar:
    """Return the grammar of this name.

    Raises:
        ValueError: if there is none.
    """
    grammar = GRAMMARS.get(name) if isinstance(name, str) else None
    if grammar is None:
        raise ValueError(f"grammar={name!r:.80} is unknown: expected one of {', '.join(GRAMMARS)}")
    return grammar


def grammar_of_names(names: Iterable[str]) -> str | None:
    """Return the grammar of published weights by what they are called; `None`: no name tells it.

    Args:
        names: folders or Hub ids, such as ``mit-han-lab/StreamingVLM``.
    """
    plain = [name.lower().replace("-", "").replace("_", "") for name in names]
    return STREAMINGVLM.name if any(STREAMINGVLM.name in name for name in plain) else None


class FirstTexts(NamedTuple):
    """What a stream's first turn reads beside the video.

    Attributes:
        query: the text behind the video.
        previous: that of the message before the turn, where the grammar has one.
    """

    query: str
    previous: str = ""


@dataclass(frozen=True)
class TurnSpan:
    """Where one turn stands in a stream.

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


def turn_span(first_frame: int, grammar: Grammar = LIVECC) -> TurnSpan:
    """Return the turn that begins with frame number `first_frame` of a stream without gaps.

    Args:
        first_frame: 0 for the first turn, then, in LiveCC's grammar, 6, 8, 10 ...
        grammar: of the model.

    Raises:
        ValueError: if no turn begins at `first_frame`.
    """
    second = grammar.first_turn_frames
    if first_frame != 0 and (first_frame < second or first_frame % TURN_FRAMES):
        raise ValueError(
            f"no turn begins at frame {first_frame}: turns begin at frames 0, {second}, {second + TURN_FRAMES}, ..."
        )
    n_frames = second if first_frame == 0 else TURN_FRAMES
    start_s = first_frame / FRAMES_PER_SECOND
    return TurnSpan(first_frame, n_frames, start_s, start_s + n_frames / FRAMES_PER_SECOND)


def split_turns(n_frames: int, grammar: Grammar = LIVECC) -> list[TurnSpan]:
    """Split `n_frames` frames into turns.

    Args:
        n_frames: an even number of frames; a first turn shorter than 3 s keeps its 3 s label.
        grammar: of the model.

    Raises:
        ValueError: if `n_frames` is not positive or odd.
    """
    if n_frames <= 0 or n_frames % TURN_FRAMES:
        raise ValueError(
            f"got {n_frames} frames, expected a positive multiple of {TURN_FRAMES}: repeat the last frame "
            "of an odd count"
        )
    turns = []
    first_frame = 0
    while first_frame < n_frames:
        span = turn_span(first_frame, grammar)
        n = min(span.n_frames, n_frames - first_frame)
        turns.append(TurnSpan(first_frame, n, span.start_s, span.end_s))
        first_frame += n
    return turns


def time_label(start_s: float, end_s: float) -> str:
    """Return the text that opens a user turn, such as ``Time=3.0-4.0s``; both in seconds from the stream's start."""
    return f"Time={start_s:.1f}-{end_s:.1f}s"


def query_text(query: str, title: str | None = None, previous: str | None = None) -> str:
    """Return the query as the model reads it: the request, then its context on new lines.

    As in LiveCC's training data the title is given only where there is no previous text; with one, its
    line stays, empty.

    Args:
        query: what the commentary should be about.
        title: the video's title.
        previous: what was said before the stream begins.

    Raises:
        ValueError: if one is no string, such as the NaN of an empty cell, which would be read as the word.
    """
    for name, text in (("query", query), ("title", title), ("previous", previous)):
        if not isinstance(text, str) and (text is not None or name == "query"):
            raise ValueError(f"{name}={text!r:.80}: expected a string")
    title_line = "" if previous else title or ""
    return f"{query}\n{title_line}\n{previous or ''}".strip()


def first_texts(
    query: str, title: str | None = None, previous: str | None = None, grammar: Grammar = LIVECC
) -> FirstTexts:
    """Return what a stream's first turn reads; arguments and errors as of :func:`query_text`.

    Where what was said before has a message of its own, the title stands behind the query in any case.
    """
    if grammar.previous_role is None:
        return FirstTexts(query_text(query, title, previous))
    query_text(query, title, previous)  # checks them
    return FirstTexts(query_text(query, title), previous or "")


def prompt_start(system_prompt: str | None, grammar: Grammar = LIVECC, previous: str = "") -> str:
    """Return what opens a conversation.

    Args:
        system_prompt: of the system message; `None`: there is none.
        grammar: of the model.
        previous: what was said before, where the grammar has a message for it.
    """
    system = "" if system_prompt is None else f"{IM_START}system\n{system_prompt}{IM_END}\n"
    if grammar.previous_role is None:
        return system
    return f"{system}{IM_START}{grammar.previous_role}\n{previous}{IM_END}\n"


def vision_text(labels: Sequence[str] = ("",), video: str = VIDEO_PAD) -> str:
    """Return vision blocks, each behind the text of its own that the backbone puts there; see `Backbone`."""
    return "".join(f"{label}{VISION_START}{video}{VISION_END}" for label in labels)


def user_turn(
    start_s: float, end_s: float, query: str = "", video: str = VIDEO_PAD, labels: Sequence[str] = ("",)
) -> str:
    """Return one user turn up to where the assistant's words begin, without what stands before it.

    Args:
        start_s: start in seconds from the stream's start.
        end_s: end in seconds from the stream's start.
        query: the query's text where this turn carries one (see :func:`query_text`).
        video: the placeholder between the vision tokens.
        labels: the text before each vision block (see `Backbone.vision_labels`).
    """
    content = f"{time_label(start_s, end_s)}{vision_text(labels, video)}{query}"
    return f"{IM_START}user\n{content}{IM_END}\n{ANSWER_START}"


def question_turn(question: str) -> str:
    """Return a user turn without video, up to where the answer begins."""
    return f"{IM_START}user\n{question}{IM_END}\n{ANSWER_START}"


def spoken_text(words: Iterable[str], grammar: Grammar = LIVECC) -> str:
    """Return what the assistant says in a turn: the words, then :data:`CONTINUATION`; silence is that alone."""
    text = join_words(words)
    return (grammar.word_lead + text if text else "") + CONTINUATION


def join_words(words: Iterable[str]) -> str:
    """Return words as they are written: with spaces between, but in scripts that have none, such as Chinese."""
    text = " ".join(words)
    return text if text.isascii() else _NEEDLESS_SPACE.sub("", text)


def strip_continuation(text: str) -> str:
    """Return decoded assistant text as a listener hears it: without the last `` ...`` and outer spaces."""
    return text.rstrip().removesuffix(CONTINUATION).strip()


def assign_words(
    words: Sequence[Sequence], last_frame_times_s: Sequence[float], grammar: Grammar = LIVECC
) -> tuple[list[list[str]], int]:
    """Give each word to the first turn whose last frame is not earlier than the word's end.

    A word is spoken once: those that end after the last turn's last frame are cut, and counted.

    Args:
        words: ``[start_s, end_s, word]`` in the order spoken, on the clock of `last_frame_times_s`.
        last_frame_times_s: the presentation time of each turn's last frame, in seconds, not decreasing.
        grammar: of the model; it may let words end later by some time.

    Returns:
        The words of each turn, and how many words were cut.
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


def frame_pixel_budget(n_frames: int, pixels_per_token: int = PIXELS_PER_TOKEN) -> int:
    """Return the most pixels one frame of a clip may have, so that a clip stays within the token budget.

    max(min(768, 24576 * 2 / n_frames), 105) * 28 * 28, from LiveCC's video reader (a frame pair makes one
    set of tokens, hence the 2).

    Args:
        n_frames: frames in the clip.
        pixels_per_token: pixels of a frame for each token: 28 * 28, or what the backbone has.
    """
    share = VIDEO_TOKEN_BUDGET * 2 / n_frames
    return int(max(min(MAX_FRAME_TOKENS, share), MIN_FRAME_TOKENS * 1.05) * pixels_per_token)
