"""LiveSports-3K QA: questions about what, who and when in clips of sports."""

from __future__ import annotations

import re
from typing import Any

from ..predictions.published_choice import without_letters
from ..predictions.rows import ChoiceRow
from ..prompt_files import Prompts, load_prompts
from .annotations import Annotations, column, options_of
from .questions import Question, as_published, letters


def prompts_of(protocol: str) -> Prompts:
    """Return a protocol's prompts."""
    return load_prompts("tasks", "livecc_choice")


def read_questions(annotations: Annotations, protocol: str) -> list[Question]:
    """Return the questions: in showlab/livecc's columns, or converted with clips of their own.

    Where a clip begins and ends is in `video_start` and `video_end`, in `begin` and `end` as in the CC track, or in the
    name of a clip that is cut already. Options may be a list, or one as JSON in a text, as the CC track has its words.

    Keys are the rows' numbers with their ids, since some ids are there twice.

    Raises:
        ValueError: if a column is missing.
    """
    return [_question(row, number, protocol) for number, row in enumerate(annotations.rows)]


def _question(row: dict[str, Any], number: int, protocol: str) -> Question:
    prompts = prompts_of(protocol)
    listed = options_of(row, number)
    options = without_letters(listed)
    question = column(row, number, "question", "problem")
    answer = re.sub(r"</?answer>", "", str(column(row, number, "answer", "solution"))).strip()
    media = row.get("video") or row.get("path")
    media = str(media) if media else f"{column(row, number, 'video_id')}.mp4"
    # A converted copy names clips VIDEO_BEGIN_END.mp4, cut already.
    cut = re.fullmatch(r"(.+)_([\d.]+)_([\d.]+)\.\w+", media)
    start_s, end_s = (row.get(name, row.get(other)) for name, other in (("video_start", "begin"), ("video_end", "end")))
    names: tuple[str, ...] = (media,)
    video = str(row.get("video_id") or (cut[1] if cut else media))
    choice = ChoiceRow(
        key=f"{number}_{column(row, number, 'question_id', 'problem_id')}",
        video=video,
        answer=answer,
        response=None,
        groups={
            "q_type": str(column(row, number, "q_type", "q_type_livesports")),
            "ocr": str(column(row, number, "OCR", "ocr", "ocr_livesports")),
        },
        options=options,
    )
    text = prompts.fill("question", question=question, options="\n".join(as_published(listed)))
    return Question(
        row=choice,
        media=names,
        start_s=None if start_s is None else float(start_s),
        end_s=None if end_s is None else float(end_s),
        prompt=text,
        answer_prefix=prompts["answer_prefix"],
        candidates=letters(4) if protocol == "livecc" else letters(len(options)),
        candidate_lead=prompts["candidate_lead"],
    )
