"""The rows of files of predictions and verdicts."""

from __future__ import annotations

import hashlib
import math
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, NamedTuple

from livecc_hf.utils.type_hints import check_fields

LETTER, YES_NO, COUNT = "letter", "yes_no", "count"
MODEL, OPPONENT, TIE = "model", "opponent", "tie"
ORDERS = ("ab", "ba")  # "ab" shows the model's text first, "ba" the opponent's


class SpokenSpan(NamedTuple):
    """Words with their times in the video.

    Attributes:
        start_s: start in seconds.
        end_s: end in seconds.
        text: the words; empty for silence.
    """

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class ChoiceRow:
    """A question with fixed choices, and a model's response.

    Attributes:
        key: identifies the row in its benchmark.
        video: the video of the question, by which standard errors are clustered.
        answer: the correct answer: a letter, "Yes" or "No", or a number.
        response: the model's response; a list if a published file has one; `None` if there is none.
        kind: type of the answer, "letter", "yes_no" or "count".
        groups: the row's value in each breakdown, such as `{"task": "EPM"}`.
        options: texts of the choices in order, without letters; empty if unknown.
        probabilities: probability of each candidate, if it was chosen by logits.
        error: the reason why there is no response, such as a missing video.
    """

    layout: ClassVar[str] = "choice"
    key: str
    video: str
    answer: str
    response: str | list[str] | None
    kind: str = LETTER
    groups: dict[str, str] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)
    probabilities: dict[str, float] | None = None
    error: str | None = None

    @property
    def id(self) -> str:
        """Unique identifier of the row in a file."""
        return self.key

    def __post_init__(self) -> None:
        check_fields(self, "response")
        if self.response is not None and not isinstance(self.response, str | list | int | float):
            raise ValueError(f"response is {self.response!r:.80}: expected a string")
        if self.kind not in (LETTER, YES_NO, COUNT):
            raise ValueError(f"kind is {self.kind!r}: expected letter, yes_no or count")


@dataclass(frozen=True)
class CommentaryRow:
    """A commentary on a clip.

    Attributes:
        key: identifies the row in its benchmark.
        video: the video of the clip, by which standard errors are clustered.
        begin_s: start of the clip in the video, in seconds.
        end_s: end of the clip in the video, in seconds.
        pred: the whole text, joined as the protocol does; `None` if there is none.
        turns: the words of each turn with their times, silent turns included; empty if a file has no times.
        reference: what people said, with times; empty if unknown.
        groups: the row's value in each breakdown.
        latencies_s: seconds from a turn's last frame to its words, for each turn.
        work_s: seconds of work for the clip, decoding included.
        error: the reason why there is no commentary.
    """

    layout: ClassVar[str] = "commentary"
    key: str
    video: str
    begin_s: float
    end_s: float
    pred: str | None
    turns: list[SpokenSpan] = field(default_factory=list)
    reference: list[SpokenSpan] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    work_s: float | None = None
    error: str | None = None

    @property
    def id(self) -> str:
        """Unique identifier of the row in a file."""
        return self.key

    def __post_init__(self) -> None:
        for name in ("begin_s", "end_s"):
            if not _is_seconds(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r:.80}: expected seconds")
        if self.end_s < self.begin_s:
            raise ValueError(f"the clip runs from {self.begin_s} to {self.end_s} s: expected an end after its start")
        for name in ("turns", "reference"):
            spans = [SpokenSpan(*span) for span in getattr(self, name)]
            for span in spans:
                if not (_is_seconds(span.start_s) and _is_seconds(span.end_s) and isinstance(span.text, str)):
                    raise ValueError(f"{name} hold {tuple(span)!r:.80}: expected [start_s, end_s, text]")
            object.__setattr__(self, name, spans)
        check_fields(self)


@dataclass(frozen=True)
class VerdictRow:
    """A judge's verdict on two texts, shown in one order.

    Attributes:
        key: identifies the judged row in its benchmark.
        video: the row's video.
        order: "ab" if the model's text was shown first, "ba" if the opponent's.
        winner: "model", "opponent" or "tie".
        repeat: 0 for the first time that the judge was asked, 1 for the second, and so on.
        is_valid: whether the reply is valid in the judge's protocol.
        reply: the judge's reply; `None` if a file does not have it.
        model_hash: `text_hash` of the model's text; `None` if a file does not have it.
        opponent_hash: `text_hash` of the opponent's text; `None` if a file does not have it.
    """

    layout: ClassVar[str] = "verdict"
    key: str
    video: str
    order: str
    winner: str
    repeat: int = 0
    is_valid: bool = True
    reply: str | None = None
    model_hash: str | None = None
    opponent_hash: str | None = None

    @property
    def id(self) -> str:
        """Unique identifier of the row in a file."""
        return f"{self.key} {self.order} {self.repeat}"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.order not in ORDERS or self.winner not in (MODEL, OPPONENT, TIE):
            raise ValueError(
                f"order {self.order!r}, winner {self.winner!r}: expected ab or ba, and model, opponent or tie"
            )


Row = ChoiceRow | CommentaryRow | VerdictRow
ROW_TYPES: dict[str, type[Row]] = {row.layout: row for row in (ChoiceRow, CommentaryRow, VerdictRow)}


def text_hash(text: str) -> str:
    """Return the hash of a text for verdicts: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def row_to_json(row: Row) -> dict[str, Any]:
    """Return a row as a JSON object, without fields that have their default value."""
    fields = row.__dataclass_fields__
    values = {name: getattr(row, name) for name in fields}
    return {name: value for name, value in values.items() if not _is_default(fields[name], value)}


def row_from_json(layout: str, value: Any) -> Row:
    """Return the row in a JSON value.

    Args:
        layout: type of the row: "choice", "commentary" or "verdict".
        value: the JSON value.

    Raises:
        ValueError: if a column is missing, unknown or of a wrong type.
    """
    kind = ROW_TYPES[layout]
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {str(value)[:80]!r}")
    unknown = sorted(set(value) - set(kind.__dataclass_fields__))
    needed = [name for name, item in kind.__dataclass_fields__.items() if _has_no_default(item)]
    missing = [name for name in needed if name not in value]
    if unknown or missing:
        problems = [f"no column {', '.join(missing)}"] if missing else []
        problems += [f"unknown column {', '.join(unknown)}"] if unknown else []
        raise ValueError(f"{'; '.join(problems)}: expected {', '.join(kind.__dataclass_fields__)}")
    for name in ("key", "video"):
        if not isinstance(value[name], str):
            raise ValueError(f"{name} is {value[name]!r}: expected a string")
    try:
        return kind(**value)
    except TypeError as error:
        raise ValueError(f"a column has a wrong type: {error}") from error


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _has_no_default(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _is_default(item: Any, value: Any) -> bool:
    if item.default_factory is not MISSING:
        return value == item.default_factory()
    return item.default is not MISSING and value == item.default
