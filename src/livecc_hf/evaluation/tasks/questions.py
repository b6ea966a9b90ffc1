"""Questions for a model: a clip of a video, a prompt, and the candidate answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..predictions.published_choice import without_letters
from ..predictions.rows import ChoiceRow, SpokenSpan

ALL_LINES, SAMPLED_LINES = "all", "sampled"


@dataclass(frozen=True)
class FrameRule:
    """Which frames of a clip the model sees: evenly spread, including the first and the last.

    Attributes:
        fps: frames a second.
        min_frames: least frames.
        max_frames: most frames.
        n_frames: number of frames, whatever the clip's length; overrides the others.
        max_pixels: most pixels of a frame; `None`: the clip's share of the reference's token budget.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 480
    n_frames: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class Question:
    """A question about a clip. The video comes before the prompt, so that questions on one clip share its vision.

    Attributes:
        row: the row without an answer; its `response` is `None`.
        media: possible names of the video in the folder, the preferred first.
        start_s: start of the clip, in seconds as a player shows; `None`: of the video.
        end_s: end of the clip; `None`: of the video.
        prompt: the user's text after the video.
        answer_prefix: beginning of the answer.
        candidates: answers to choose from by their logits; empty: the answer is generated.
        candidate_lead: the text before a candidate when its token is looked up.
        system: system prompt, if not the chat template's.
        frames: the rule for frames.
        subtitles: lines of the video's subtitles; `None`: without subtitles.
        subtitle_rule: "all" lines, or only those "sampled" that are shown with a frame.
        subtitle_template: text before the prompt, with `{subtitles}`.
        max_new_tokens: of a generated answer.
        response_prefix: put before a generated answer.
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
        """Return the user's text, with the subtitles that go with these frames."""
        if self.subtitles is None:
            return self.prompt
        lines: Sequence[SpokenSpan] = self.subtitles
        if self.subtitle_rule == SAMPLED_LINES:
            lines = [line for line in lines if any(line.start_s <= time <= line.end_s for time in frame_times_s)]
        said = " ".join(line.text for line in lines)
        return self.subtitle_template.replace("{subtitles}", said) + self.prompt


def lettered(options: Sequence[str], form: str = "{letter}. {text}") -> list[str]:
    """Return options with letters before them."""
    return [form.format(letter=letter, text=text) for letter, text in zip(letters(len(options)), options, strict=True)]


def as_published(options: Sequence[str]) -> list[str]:
    """Return options exactly as they are if they have letters with dots, else with such letters before them."""
    pairs = zip(letters(len(options)), options, strict=True)
    if all(option.startswith(f"{letter}. ") for letter, option in pairs):
        return list(options)
    return lettered(without_letters(options))


def letters(n: int) -> tuple[str, ...]:
    """Return A, B, C and so on."""
    return tuple(chr(ord("A") + number) for number in range(n))
