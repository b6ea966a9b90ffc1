"""LiveSports-3K QA: what, who and when questions about sports clips."""

from __future__ import annotations

import re
from typing import Any

from ..predictions.published_choice import without_letters
from ..predictions.rows import ChoiceRow
from ..prompt_files import Prompts, load_prompts
from ..scorers.answers import LIVECC
from .annotations import Annotations, column, optional_seconds, options_of, parse_rows
from .questions import Question, as_published, letters


def prompts_of(protocol: str) -> Prompts:
    """Return the prompts, which are the same for all protocols."""
    return load_prompts("tasks", "livecc_choice")


def read_questions(annotations: Annotations, protocol: str) -> list[Question]:
    """Return the questions.

    The rows have showlab/livecc's columns, or those of a converted copy whose clips are already cut. The bounds of a
    clip are in `video_start` and `video_end`, or in `begin` and `end` as in the CC track. Options may be a list or a
    JSON list in a string. The key of a row is its number and its id, since some ids occur twice.

    Args:
        annotations: the rows as published.
        protocol: the protocol of the run.

    Raises:
        ValueError: if a column is missing.
    """
    return parse_rows(annotations, lambda row, number: _question(row, number, protocol))


def _question(row: dict[str, Any], number: int, protocol: str) -> Question:
    prompts = prompts_of(protocol)
    listed = options_of(row, number)
    options = without_letters(listed)
    question = column(row, number, "question", "problem")
    answer = re.sub(r"</?answer>", "", str(column(row, number, "answer", "solution"))).strip()
    media = row.get("video") or row.get("path")
    media = str(media) if media else f"{column(row, number, 'video_id')}.mp4"
    # A converted copy names its clips VIDEO_BEGIN_END.mp4.
    cut = re.fullmatch(r"(.+)_([\d.]+)_([\d.]+)\.\w+", media)
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
        media=(media,),
        start_s=optional_seconds(row, number, "video_start", "begin"),
        end_s=optional_seconds(row, number, "video_end", "end"),
        prompt=text,
        answer_prefix=prompts["answer_prefix"],
        candidates=letters(4 if protocol == LIVECC else len(options)),
        candidate_lead=prompts["candidate_lead"],
    )
