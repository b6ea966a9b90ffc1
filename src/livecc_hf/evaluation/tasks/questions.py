"""Questions for a model: a clip of a video, a prompt, and the candidate answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from livecc_hf.modeling.stream_options import check_number

from ..predictions.published_choice import without_letters
from ..predictions.rows import ChoiceRow, SpokenSpan

ALL_LINES, SAMPLED_LINES = "all", "sampled"


@dataclass(frozen=True)
class FrameRule:
    """How frames are sampled from a clip: uniformly, including the first and the last frame.

    Attributes:
        fps: frames per second.
        min_frames: least number of frames.
        max_frames: largest number of frames.
        n_frames: fixed number of frames; overrides the other three.
        max_pixels: largest number of pixels of a frame; default: its share of the reference's token budget for a clip.

    Raises:
        ValueError: if a value is out of range.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 480
    n_frames: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        check_number("fps", self.fps, above=0)
        for name in ("min_frames", "max_frames", "n_frames", "max_pixels"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, from_=1, kind=int)


@dataclass(frozen=True)
class Question:
    """A question about a clip.

    The video comes before the text in the prompt, so that questions about one clip can share its prefill.

    Attributes:
        row: the row to answer; its `response` is `None`.
        media: possible names of the video in the folder, the preferred one first.
        prompt: the user's text after the video.
        start_s: start of the clip in seconds, as a player shows; `None` for the start of the video.
        end_s: end of the clip in seconds; `None` for the end of the video.
        answer_prefix: text that the answer is forced to begin with.
        candidates: answers to choose from by their logits; empty if the answer is generated.
        candidate_lead: text that precedes a candidate when its token is looked up.
        system: system prompt; default: that of the chat template.
        frames: how frames are sampled.
        subtitles: lines of the video's subtitles; `None` for a question without subtitles.
        subtitle_rule: "all" lines, or "sampled": only lines that are on screen in a sampled frame.
        subtitle_template: text before the prompt, with a `{subtitles}` placeholder.
        max_new_tokens: largest number of tokens of a generated answer.
        response_prefix: text to put before a generated answer.
    """

    row: ChoiceRow
    media: tuple[str, ...]
    prompt: str
    start_s: float | None = None
    end_s: float | None = None
    answer_prefix: str = ""
    candidates: tuple[str, ...] = ()
    candidate_lead: str = ""
    system: str | None = None
    frames: FrameRule = FrameRule()
    subtitles: tuple[SpokenSpan, ...] | None = None
    subtitle_rule: str = ALL_LINES
    subtitle_template: str = ""
    max_new_tokens: int = 128
    response_prefix: str = ""

    def text(self, frame_times_s: Sequence[float]) -> str:
        """Return the user's text, with the subtitles for frames at these times in seconds."""
        if self.subtitles is None:
            return self.prompt
        lines: Sequence[SpokenSpan] = self.subtitles
        if self.subtitle_rule == SAMPLED_LINES:
            lines = [line for line in lines if any(line.start_s <= time <= line.end_s for time in frame_times_s)]
        said = " ".join(line.text for line in lines)
        return self.subtitle_template.replace("{subtitles}", said) + self.prompt


def lettered(options: Sequence[str], form: str = "{letter}. {text}") -> list[str]:
    """Return the options with letters, each formatted by `form`."""
    return [form.format(letter=letter, text=text) for letter, text in zip(letters(len(options)), options, strict=True)]


def as_published(options: Sequence[str]) -> list[str]:
    """Return options unchanged if they start with "A. ", "B. " and so on, else with such letters in front."""
    pairs = zip(letters(len(options)), options, strict=True)
    if all(option.startswith(f"{letter}. ") for letter, option in pairs):
        return list(options)
    return lettered(without_letters(options))


def letters(n: int) -> tuple[str, ...]:
    """Return the first n capital letters."""
    return tuple(chr(ord("A") + number) for number in range(n))
