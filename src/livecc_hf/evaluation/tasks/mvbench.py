"""MVBench: 20 tasks of 200 questions about short clips; the clips of one task are folders of frames."""

from __future__ import annotations

from typing import Any

from ..predictions.published_choice import without_letters
from ..predictions.rows import ChoiceRow
from ..prompt_files import Prompts, load_prompts
from ..scorers.answers import FIXED, LIVECC, OFFICIAL
from .annotations import FILE_COLUMN, Annotations, column, optional_seconds, options_of, parse_rows
from .questions import FrameRule, Question, lettered, letters

# The folder with the videos of each question file (OpenGVLab/Ask-Anything, video_chat2/mvbench.ipynb).
_FOLDERS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
_LIVECC_LETTERS = letters(5)
_OFFICIAL_FRAMES = FrameRule(n_frames=16)


def prompts_of(protocol: str) -> Prompts:
    """Return the prompts of a protocol."""
    return load_prompts("tasks", "official_mvbench" if protocol == OFFICIAL else "livecc_choice")


def read_questions(annotations: Annotations, protocol: str) -> list[Question]:
    """Return the questions.

    The rows are those of the files on the Hub, or of one file with showlab/livecc's columns. The key of a row is the
    task's name and the row's number within the task.

    Args:
        annotations: the rows as published.
        protocol: the protocol of the run.

    Raises:
        ValueError: if a column is missing, or the answer is not one of the candidates.
    """
    n_seen: dict[str, int] = {}

    def parse(row: dict[str, Any], number: int) -> Question:
        task = str(row.get("task_type") or column(row, number, "task_type", FILE_COLUMN).replace("_", " ").title())
        n_seen[task] = n_seen.get(task, -1) + 1
        return _question(row, number, protocol, task, f"{task}/{n_seen[task]}")

    return parse_rows(annotations, parse)


def _question(row: dict[str, Any], number: int, protocol: str, task: str, key: str) -> Question:
    options, answer = _options(row, number)
    media = str(column(row, number, "video"))
    folder = _FOLDERS.get(str(row.get(FILE_COLUMN)), "")
    choice = ChoiceRow(key, media, answer, None, groups={"task_type": task}, options=options)
    prompts = prompts_of(protocol)
    form = "({letter}) {text}" if protocol == OFFICIAL else "{letter}. {text}"
    text = prompts.fill(
        "question", question=column(row, number, "question"), options="\n".join(lettered(options, form))
    )
    by_logits = protocol != OFFICIAL
    has_bounds = protocol != LIVECC  # showlab/livecc expects videos that are already cut
    return Question(
        row=choice,
        media=(f"{folder}/{media}", media) if folder else (media,),
        start_s=optional_seconds(row, number, "start") if has_bounds else None,
        end_s=optional_seconds(row, number, "end") if has_bounds else None,
        prompt=text,
        answer_prefix=prompts["answer_prefix"],
        candidates=(letters(len(options)) if protocol == FIXED else _LIVECC_LETTERS) if by_logits else (),
        candidate_lead=prompts.get("candidate_lead"),
        system=None if by_logits else prompts["system"],
        frames=FrameRule() if by_logits else _OFFICIAL_FRAMES,
        response_prefix="" if by_logits else "(",
    )


def _options(row: dict[str, Any], number: int) -> tuple[list[str], str]:
    """Return the options without letters, and the letter of the correct one."""
    answer = str(column(row, number, "answer"))
    if row.get("candidates") is None:
        return without_letters(options_of(row, number)), answer
    options = options_of(row, number, "candidates")
    if answer not in options:
        raise ValueError(f"row {number} of the annotations: the answer {answer!r} is not one of {options}")
    return options, letters(len(options))[options.index(answer)]
