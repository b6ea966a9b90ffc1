"""What one line of a file of predictions, or of verdicts, holds."""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, NamedTuple

LETTER, YES_NO, COUNT = "letter", "yes_no", "count"
MODEL, OPPONENT, TIE = "model", "opponent", "tie"
ORDERS = ("ab", "ba")  # the model's text is shown first; the opponent's is


class SpokenSpan(NamedTuple):
    """Something said, on the video's clock.

    Attributes:
        start_s: when it begins.
        end_s: when it ends.
        text: the words; empty: silence.
    """

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class ChoiceRow:
    """A question whose answer is one of a few.

    Attributes:
        key: names the row in its benchmark.
        video: what it is about; standard errors are clustered by it.
        answer: the right answer: a letter, "Yes" or "No", or a number.
        response: what the model answered; a list where a published file has one; `None`: nothing.
        kind: "letter", "yes_no" or "count".
        groups: breakdowns that the row belongs to, such as `{"task": "EPM"}`.
        options: the texts of the choices, in order, without letters; empty where they are not known.
        probabilities: of each candidate, where option logits were read.
        error: why there is no answer, such as a missing video.
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
        """What no two rows of a file share."""
        return self.key

    def __post_init__(self) -> None:
        _check_type(self, "answer", str)
        if self.kind not in (LETTER, YES_NO, COUNT):
            raise ValueError(f"kind is {self.kind!r}: expected letter, yes_no or count")


@dataclass(frozen=True)
class CommentaryRow:
    """A commentary on a clip.

    Attributes:
        key: names the row in its benchmark.
        video: what it is about; standard errors are clustered by it.
        begin_s: where the clip begins, on the video's clock.
        end_s: where it ends.
        pred: the whole text, as its protocol puts it together.
        turns: what was said when, silent turns included; empty where a file has no times.
        reference: what a person said, with times; empty where it is not known.
        groups: breakdowns that the row belongs to.
        latencies_s: seconds from a turn's last frame to its words, for each turn.
        work_s: seconds of work for the clip, decoding included.
        error: why there is no commentary.
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
        """What no two rows of a file share."""
        return self.key

    def __post_init__(self) -> None:
        for name in ("begin_s", "end_s"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected seconds")
        for name in ("turns", "reference"):
            object.__setattr__(self, name, [SpokenSpan(*span) for span in getattr(self, name)])


@dataclass(frozen=True)
class VerdictRow:
    """What a judge said of two texts, shown in one order.

    Attributes:
        key: names the row in its benchmark.
        video: what it is about.
        order: "ab": the model's text is shown first; "ba": the opponent's.
        winner: "model", "opponent", or "tie".
        repeat: 0, or 1 and more where the same is asked again.
        is_valid: whether the reply named exactly one of the texts.
        reply: what the judge said; `None` where a file does not keep it.
        model_hash: `text_hash` of the model's text that was judged; `None` where a file does not keep it.
        opponent_hash: the same of the opponent's.
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
        """What no two rows of a file share."""
        return f"{self.key} {self.order} {self.repeat}"

    def __post_init__(self) -> None:
        if self.order not in ORDERS or self.winner not in (MODEL, OPPONENT, TIE):
            raise ValueError(
                f"order {self.order!r}, winner {self.winner!r}: expected ab or ba, and model, opponent or tie"
            )


Row = ChoiceRow | CommentaryRow | VerdictRow
ROW_TYPES: dict[str, type[Row]] = {row.layout: row for row in (ChoiceRow, CommentaryRow, VerdictRow)}


def text_hash(text: str) -> str:
    """Return what stands for a text in a verdict: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def row_to_json(row: Row) -> dict[str, Any]:
    """Return a row as JSON holds it, without what has its default value."""
    fields = row.__dataclass_fields__
    values = {name: getattr(row, name) for name in fields}
    return {name: value for name, value in values.items() if not _is_default(fields[name], value)}


def row_from_json(layout: str, value: Any) -> Row:
    """Return the row that a line holds.

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
        what = [f"no column {', '.join(missing)}"] * bool(missing)
        what += [f"unknown column {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(f"{'; '.join(what)}: expected {', '.join(kind.__dataclass_fields__)}")
    for name in ("key", "video"):
        if not isinstance(value[name], str):
            raise ValueError(f"{name} is {value[name]!r}: expected a text")
    try:
        return kind(**value)
    except TypeError as error:
        raise ValueError(f"a column has a wrong type: {error}") from error


def _check_type(row: Any, name: str, kind: type) -> None:
    if not isinstance(getattr(row, name), kind):
        raise ValueError(f"{name} is {getattr(row, name)!r}: expected {kind.__name__}")


def _has_no_default(item: Any) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _is_default(item: Any, value: Any) -> bool:
    if item.default_factory is not MISSING:
        return value == item.default_factory()
    return item.default is not MISSING and value == item.default
