"""Video-MME: 900 videos with three questions each, with and without subtitles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..predictions.published_choice import without_letters
from ..predictions.rows import ChoiceRow, SpokenSpan
from ..prompt_files import Prompts, load_prompts
from ..scorers.answers import FIXED, OFFICIAL
from .annotations import Annotations, column, options_of, parse_rows
from .questions import ALL_LINES, SAMPLED_LINES, Question, as_published, letters
from .subtitle_lines import read_subtitle_lines

_LETTERS = letters(4)


def prompts_of(protocol: str) -> Prompts:
    """Return the prompts of a protocol."""
    return load_prompts("tasks", "official_videomme" if protocol == OFFICIAL else "livecc_choice")


def read_questions(
    annotations: Annotations, protocol: str, with_subtitles: bool = False, subtitles: str | os.PathLike | None = None
) -> list[Question]:
    """Return the questions.

    Args:
        annotations: the rows as published.
        protocol: the protocol of the run.
        with_subtitles: whether to add subtitles to the prompts.
        subtitles: folder of VIDEO.srt files; a video without a file has no subtitles.

    Raises:
        FileNotFoundError: if subtitles are to be added and `subtitles` is not a folder.
        ValueError: if a column is missing.
    """
    folder = check_subtitles(subtitles) if with_subtitles else None
    lines: dict[str, tuple[SpokenSpan, ...]] = {}
    return parse_rows(annotations, lambda row, number: _question(row, number, protocol, folder, lines))


def check_subtitles(subtitles: str | os.PathLike | None) -> Path:
    """Return the folder of subtitles.

    Raises:
        ValueError: if none is given.
        FileNotFoundError: if it is not a folder.
    """
    if subtitles is None:
        raise ValueError("videomme-subtitles needs --subtitles DIR: a folder of VIDEO.srt files")
    folder = Path(subtitles).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"--subtitles {subtitles} is not a folder: expected one of VIDEO.srt files")
    return folder


def _question(
    row: dict[str, Any], number: int, protocol: str, folder: Path | None, lines: dict[str, tuple[SpokenSpan, ...]]
) -> Question:
    prompts = prompts_of(protocol)
    listed = options_of(row, number)
    options = without_letters(listed)
    video = str(column(row, number, "videoID"))
    names = ("duration", "domain", "sub_category", "task_type")
    choice = ChoiceRow(
        key=str(column(row, number, "question_id")),
        video=str(column(row, number, "video_id")),
        answer=column(row, number, "answer"),
        response=None,
        groups={name: str(column(row, number, name)) for name in names},
        options=options,
    )
    text = {"question": column(row, number, "question"), "options": "\n".join(as_published(listed))}
    by_logits = protocol != OFFICIAL
    return Question(
        row=choice,
        media=(f"{video}.mp4",),
        prompt=prompts.fill("question", **text),
        answer_prefix=prompts.get("answer_prefix") if by_logits else "",
        candidates=(letters(len(options)) if protocol == FIXED else _LETTERS) if by_logits else (),
        candidate_lead=prompts.get("candidate_lead"),
        subtitles=None if folder is None else _lines_of(folder, video, lines),
        subtitle_rule=SAMPLED_LINES if protocol in (OFFICIAL, FIXED) else ALL_LINES,
        subtitle_template=prompts["with_subtitles"],
    )


def _lines_of(folder: Path, video: str, known: dict[str, tuple[SpokenSpan, ...]]) -> tuple[SpokenSpan, ...]:
    if video not in known:
        file = folder / f"{video}.srt"
        known[video] = read_subtitle_lines(file) if file.is_file() else ()
    return known[video]
