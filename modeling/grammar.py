"""The streaming grammar: how video time, frames and spoken words become the turns of a conversation.

A commentary is a chat. Each user turn shows the frames of a short time span, and the assistant answers with the words
spoken in that span, followed by :data:`CONTINUATION`. The first turn spans 3 s, each later one 1 s, at 2 frames per
second. This module handles only text and numbers: it needs neither PyTorch nor transformers.

The default grammar is LiveCC's (arXiv 2504.16030, section 3), reproduced byte for byte so that its released weights
and datasets work. Models trained with other texts have their own `Grammar`, which lists the differences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

FRAMES_PER_SECOND = 2
FIRST_TURN_FRAMES = 6
TURN_FRAMES = 2
FRAME_STEP_S = 1 / FRAMES_PER_SECOND

MAX_FRAMES = 480  # 240 s
PIXELS_PER_TOKEN = 28 * 28  # a merged 2x2 block of 14-pixel patches
MIN_FRAME_TOKENS, MAX_FRAME_TOKENS = 100, 768  # for each frame pair
VIDEO_TOKEN_BUDGET = 24576

CONTINUATION = " ..."
SYSTEM_PROMPT = "You are a helpful assistant."
DEFAULT_QUERY = "Please describe the video."

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
VIDEO_PAD = "<|video_pad|>"
VISION_BLOCK = f"{VISION_START}{VIDEO_PAD}{VISION_END}"

TURN_JOINT = f"{IM_END}\n"
ANSWER_START = f"{IM_START}assistant\n"


@dataclass(frozen=True)
class Grammar:
    """How a commentary is written as a chat, in the points in which models differ.

    Attributes:
        name: value of a processor's `grammar`.
        first_turn_frames: frames of a stream's first turn; each later one has `TURN_FRAMES`.
        previous_role: role of a message between system prompt and first turn for the previous text, written also
            if there is none; `None`: the previous text follows the query.
        word_lead: text before the first word of a turn.
        word_slack_s: seconds after its last frame's time within which a turn's words may end.
    """

    name: str
    first_turn_frames: int = FIRST_TURN_FRAMES
    previous_role: str | None = None
    word_lead: str = ""
    word_slack_s: float = 0.0


LIVECC = Grammar("livecc")
# StreamingVLM (arXiv 2510.09608), as in its inference code: all turns last 1 s, their words end by the turn's end, and
# a space precedes the first word.
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
    """Return the grammar of published weights by their names, or `None` if no name is known.

    Args:
        names: folders or Hub ids, such as ``mit-han-lab/StreamingVLM``.
    """
    plain = [name.lower().replace("-", "").replace("_", "") for name in names]
    return STREAMINGVLM.name if any(STREAMINGVLM.name in name for name in plain) else None


class FirstTexts(NamedTuple):
    """The texts of a stream's first turn.

    Attributes:
        query: the text after the video.
        previous: the text of the message before the turn, if the grammar has one.
    """

    query: str
    previous: str = ""


def time_label(start_s: float, end_s: float) -> str:
    """Return the text that opens a user turn, such as ``Time=3.0-4.0s``; times in seconds from the stream's start."""
    return f"Time={start_s:.1f}-{end_s:.1f}s"


def query_text(query: str, title: str | None = None, previous: str | None = None) -> str:
    """Return the text after the first turn's video: the query, then title or previous text on new lines.

    As in LiveCC's training data, a previous text replaces the title by an empty line.

    Args:
        query: what to comment on.
        title: the video's title.
        previous: what was said before the stream starts.

    Raises:
        ValueError: if one is not a string, such as the NaN of an empty table cell.
    """
    for name, text in (("query", query), ("title", title), ("previous", previous)):
        if not isinstance(text, str) and (text is not None or name == "query"):
            raise ValueError(f"{name}={text!r:.80}: expected a string")
    title_line = "" if previous else title or ""
    return f"{query}\n{title_line}\n{previous or ''}".strip()


def first_texts(
    query: str, title: str | None = None, previous: str | None = None, grammar: Grammar = LIVECC
) -> FirstTexts:
    """Return the texts of a stream's first turn; arguments and errors as in :func:`query_text`.

    If the grammar has a message for the previous text, the title always follows the query.
    """
    text = query_text(query, title, previous)  # checks all three
    if grammar.previous_role is None:
        return FirstTexts(text)
    return FirstTexts(query_text(query, title), previous or "")


def prompt_start(system_prompt: str | None, grammar: Grammar = LIVECC, previous: str = "") -> str:
    """Return the text that opens a conversation.

    Args:
        system_prompt: text of the system message; `None`: no such message.
        grammar: the model's grammar.
        previous: the previous text, used if the grammar has a message for it.
    """
    system = "" if system_prompt is None else f"{IM_START}system\n{system_prompt}{IM_END}\n"
    if grammar.previous_role is None:
        return system
    return f"{system}{IM_START}{grammar.previous_role}\n{previous}{IM_END}\n"


def question_turn(question: str) -> str:
    """Return a user's question without video, up to where the answer begins."""
    return f"{IM_START}user\n{question}{IM_END}\n{ANSWER_START}"


def strip_continuation(text: str) -> str:
    """Return decoded assistant text without its final `` ...`` and outer spaces."""
    return text.rstrip().removesuffix(CONTINUATION).strip()


@overload
def tokenize(tokenizer: Any, text: str) -> list[int]: ...


@overload
def tokenize(tokenizer: Any, text: list[str]) -> list[list[int]]: ...


def tokenize(tokenizer, text):
    """Return the token ids of a text, or of each text of a list, without special tokens around them."""
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text or isinstance(text, str) else []


def frame_pixel_budget(n_frames: int, pixels_per_token: int = PIXELS_PER_TOKEN) -> int:
    """Return the most pixels per frame with which a clip stays within the token budget.

    max(min(768, 24576 * 2 / n_frames), 105) * 28 * 28, from LiveCC's video reader; the 2 is because a frame pair makes
    one set of tokens.

    Args:
        n_frames: frames in the clip.
        pixels_per_token: pixels of a frame for each token: 28 * 28, or the backbone's.
    """
    share = VIDEO_TOKEN_BUDGET * 2 / n_frames
    return int(max(min(MAX_FRAME_TOKENS, share), MIN_FRAME_TOKENS * 1.05) * pixels_per_token)
