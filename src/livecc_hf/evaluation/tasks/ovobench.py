"""OVO-Bench: questions about the past, present and near future of a stream, each asked at a given time."""

from __future__ import annotations

from typing import Any

from ..predictions.published_choice import FORWARD, forward_answer, ovo_groups
from ..predictions.rows import COUNT, LETTER, YES_NO, ChoiceRow
from ..prompt_files import Prompts, load_prompts
from ..scorers.answers import FIXED, LIVECC, OFFICIAL
from .annotations import Annotations, column, options_of, parse_rows, seconds
from .questions import FrameRule, Question, lettered, letters

# showlab/livecc chooses among these candidates for every question.
_LIVECC_CANDIDATES = ("No", "Yes", *"0123456789", *"ABCDE")
_OFFICIAL_FRAMES = FrameRule(n_frames=64, max_pixels=360 * 420)


def prompts_of(protocol: str) -> Prompts:
    """Return the prompts of a protocol."""
    return load_prompts("tasks", "official_ovobench" if protocol == OFFICIAL else "livecc_ovobench")


def read_questions(annotations: Annotations, protocol: str) -> list[Question]:
    """Return the questions; a record of a forward task gives a question at each of its times.

    Args:
        annotations: the rows as published.
        protocol: the protocol of the run.

    Raises:
        ValueError: if a column is missing or a task is unknown.
    """

    def parse(row: dict[str, Any], number: int) -> list[Question]:
        task = column(row, number, "task")
        groups = ovo_groups(task)
        if task not in FORWARD:
            return [_choice(row, number, protocol, groups)]
        tests = column(row, number, "test_info")
        return [_forward(row, number, index, test, protocol, groups) for index, test in enumerate(tests)]

    return [question for questions in parse_rows(annotations, parse) for question in questions]


def _choice(row: dict[str, Any], number: int, protocol: str, groups: dict[str, str]) -> Question:
    options = options_of(row, number)
    gt = column(row, number, "gt")
    if not isinstance(gt, int) or not 0 <= gt < len(options):
        raise ValueError(
            f"row {number} of the annotations: gt is {gt!r}: expected the index of one of the {len(options)} options"
        )
    key = str(column(row, number, "id"))
    prompts = prompts_of(protocol)
    joined = "; ".join(lettered(options)) + ";" if protocol == OFFICIAL else "\n".join(lettered(options))
    choice = ChoiceRow(
        key=key,
        video=str(column(row, number, "video")),
        answer=letters(len(options))[gt],
        response=None,
        kind=LETTER,
        groups=groups,
        options=options,
    )
    text = prompts.fill("choice", question=column(row, number, "question"), options=joined)
    span_s = (0.0, seconds(row, number, "realtime"))
    return _asked(choice, text, protocol, letters(len(options)), span_s, f"{key}.mp4")


def _forward(
    row: dict[str, Any], number: int, index: int, test: dict[str, Any], protocol: str, groups: dict[str, str]
) -> Question:
    task, key = row["task"], str(column(row, number, "id"))
    try:
        answer, realtime_s = forward_answer(task, test), float(test["realtime"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"row {number} of the annotations: test_info {index} cannot be used: {error!r}") from error
    prompts = prompts_of(protocol)
    fields = {"REC": ("activity",), "SSR": ("step",), "CRR": ("question",)}[task]
    values = {name: str(column(test if task == "SSR" else row, number, name)) for name in fields}
    choice = ChoiceRow(
        key=f"{key}_{index}",
        video=str(column(row, number, "video")),
        answer=answer,
        response=None,
        kind=COUNT if task == "REC" else YES_NO,
        groups=groups,
    )
    # Candidates are single tokens, and only digits are: counts above 9 cannot be chosen.
    own = tuple("0123456789") if task == "REC" else ("No", "Yes")
    start_s = seconds(row, number, "ask_time") if task == "CRR" and protocol == LIVECC else 0.0
    return _asked(choice, prompts.fill(task, **values), protocol, own, (start_s, realtime_s), f"{key}_{index}.mp4")


def _asked(
    choice: ChoiceRow, text: str, protocol: str, own: tuple[str, ...], span_s: tuple[float, float], chunk: str
) -> Question:
    """Return a question; `own` are its task's candidates, and `chunk` is the name of its video if videos are cut."""
    prompts = prompts_of(protocol)
    by_logits = protocol != OFFICIAL
    return Question(
        row=choice,
        media=(choice.video, chunk),
        start_s=span_s[0],
        end_s=span_s[1],
        prompt=text,
        answer_prefix=prompts.get("answer_prefix"),
        candidates=(own if protocol == FIXED else _LIVECC_CANDIDATES) if by_logits else (),
        candidate_lead=prompts.get("candidate_lead"),
        frames=FrameRule() if by_logits else _OFFICIAL_FRAMES,
    )
