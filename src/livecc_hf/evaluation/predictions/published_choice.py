"""Answers to questions in the layouts of Video-MME, OVO-Bench and showlab/livecc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .file import RowSet
from .header import Header
from .rows import COUNT, LETTER, YES_NO, ChoiceRow

MadeT = TypeVar("MadeT")
BACKWARD = ("EPM", "ASI", "HLD")
REALTIME = ("OCR", "ACR", "ATR", "STU", "FPD", "OJR")
FORWARD = ("REC", "SSR", "CRR")
OVO_GROUPS = {
    task: group
    for group, tasks in zip(("backward", "realtime", "forward"), (BACKWARD, REALTIME, FORWARD), strict=True)
    for task in tasks
}
YES_NO_ANSWERS = ("No", "Yes")


def is_nested(value: Any) -> bool:
    """Return whether a value is a video with questions."""
    return isinstance(value, dict) and isinstance(value.get("questions"), list)


def read_nested(path: Path, videos: Sequence[Any]) -> RowSet[ChoiceRow]:
    """Read a list of videos with `questions`: Video-MME, LiveSports-3K QA or MVBench results.

    Raises:
        ValueError: if a column is missing.
    """
    first: dict[str, Any] = next((question for video in videos for question in video.get("questions", ())), {})
    if "q_type" in first:
        suite, make = "livesports3k-qa", _qa_row
    elif "duration" in videos[0]:
        suite, make = "videomme", _videomme_row
    else:
        suite, make = "mvbench", _mvbench_row
    rows = []
    for number, video in enumerate(videos):
        questions = video.get("questions") if isinstance(video, dict) else None
        if not isinstance(questions, list):
            raise ValueError(f"{path}: entry {number} has no list of questions")
        for index, question in enumerate(questions):
            rows.append(_made(make, f"{path}: entry {number}, question {index}", video, question))
    rows, notes = _first_answers(rows, path)
    protocol = "official" if suite == "videomme" and not _chosen_by_logits(videos) else "livecc"
    header = Header("choice", suite=suite, protocol=protocol, version="")
    return RowSet(header, rows, str(path), f"{suite} results", notes)


def _chosen_by_logits(videos: Sequence[dict[str, Any]]) -> bool:
    """Return whether each response is one of its options to the character, as where showlab/livecc picks by logits.

    A model that writes its answers does not quote all of them so.
    """
    questions = [question for video in videos for question in video["questions"]]
    return all(question["response"] in question["options"] for question in questions)


def _first_answers(rows: Sequence[ChoiceRow], source: Path) -> tuple[list[ChoiceRow], list[str]]:
    """Return the first row of each key, and a note on the others: some published files answer a question twice."""
    first: dict[str, ChoiceRow] = {}
    for row in rows:
        first.setdefault(row.key, row)
    again = len(rows) - len(first)
    note = f"{source}: {again:,} rows answer a question again; the first answer counts"
    return list(first.values()), [note] if again else []


def _made(make: Callable[..., MadeT], place: str, *values: Any) -> MadeT:
    """Return what a function makes, or say where a column is missing."""
    try:
        return make(*values)
    except KeyError as error:
        raise ValueError(f"{place} has no column {error}") from error
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{place} cannot be used: {error}") from error


def _videomme_row(video: dict[str, Any], question: dict[str, Any]) -> ChoiceRow:
    names = ("duration", "domain", "sub_category")
    return ChoiceRow(
        key=question["question_id"],
        video=video["video_id"],
        answer=question["answer"],
        response=question["response"],
        groups={name: video[name] for name in names} | {"task_type": question["task_type"]},
        options=without_letters(question["options"]),
    )


def _qa_row(video: dict[str, Any], question: dict[str, Any]) -> ChoiceRow:
    return ChoiceRow(
        key=str(question["question_id"]),
        video=video["video_id"],
        answer=question["answer"],
        response=question["response"],
        groups={"q_type": question["q_type"], "ocr": str(question["OCR"])},
        options=without_letters(question["options"]),
    )


def _mvbench_row(video: dict[str, Any], question: dict[str, Any]) -> ChoiceRow:
    return ChoiceRow(
        key=f"{question['task_type']}/{video['video']}/{question['question']}/{question['answer']}",
        video=video["video"],
        answer=question["answer"],
        response=question["response"],
        groups={"task_type": question["task_type"]},
        options=without_letters(question["options"]),
    )


def without_letters(options: Sequence[str]) -> list[str]:
    """Return options without the letters before them: "A. Yes", "A: Yes" and "(A) Yes" become "Yes"."""
    if not isinstance(options, Sequence) or isinstance(options, str) or not options:
        raise ValueError(f"options are {options!r}: expected a list with at least one")
    texts = []
    for number, option in enumerate(options):
        letter = chr(ord("A") + number)
        starts = (f"({letter})", f"{letter}.", f"{letter}:")
        start = next((start for start in starts if option.startswith(start)), "")
        texts.append(option.removeprefix(start).strip())
    return texts


def read_ovo_results(parts: Sequence[tuple[Path, dict[str, Any]]], source: Path) -> RowSet[ChoiceRow]:
    """Read OVO-Bench's result files, which may hold some of the tasks each.

    Raises:
        ValueError: if a column is missing or a task is unknown.
    """
    rows, notes = [], []
    for path, value in parts:
        for group in ("backward", "realtime"):
            for index, record in enumerate(value.get(group) or ()):
                rows.append(_made(_ovo_row, f"{path}: {group} {index}", record))
        for index, record in enumerate(value.get("forward") or ()):
            rows += _made(_ovo_forward_rows, f"{path}: forward {index}", record)
    n_lists = sum(isinstance(row.response, list) for row in rows)
    if n_lists:
        rows = [replace(row, response=_unwrapped(row.response)) for row in rows]
        notes.append(f"{source}: {n_lists:,} responses are lists of one text, and are read as that text")
    rows, again = _first_answers(rows, source)
    header = Header("choice", suite="ovobench", protocol="official", version="")
    return RowSet(header, rows, str(source), "OVO-Bench results", notes + again)


def _unwrapped(response: str | list[str] | None) -> str | list[str] | None:
    """Return the text in a list of one: some published files hold each answer so, and others the same ones bare."""
    return response[0] if isinstance(response, list) and len(response) == 1 else response


def _ovo_row(record: dict[str, Any]) -> ChoiceRow:
    return ChoiceRow(
        key=str(record["id"]),
        video=record["video"],
        answer=record["ground_truth"],
        response=record["response"],
        groups=ovo_groups(record["task"]),
    )


def _ovo_forward_rows(record: dict[str, Any]) -> list[ChoiceRow]:
    groups = ovo_groups(record["task"])
    rows = []
    for index, test in enumerate(record["test_info"]):
        rows.append(
            ChoiceRow(
                key=f"{record['id']}_{index}",
                video=record["video"],
                answer=forward_answer(record["task"], test),
                response=test["response"],
                kind=COUNT if record["task"] == "REC" else YES_NO,
                groups=groups,
            )
        )
    return rows


def forward_answer(task: str, test: dict[str, Any]) -> str:
    """Return the right answer to one of the times at which OVO-Bench's forward tasks ask."""
    return str(test["count"]) if task == "REC" else YES_NO_ANSWERS[test["type"]]


def ovo_groups(task: str) -> dict[str, str]:
    """Return the breakdowns of an OVO-Bench task.

    Raises:
        ValueError: if there is no such task.
    """
    if task not in OVO_GROUPS:
        raise ValueError(f"task {task!r} is none of OVO-Bench's {', '.join(OVO_GROUPS)}")
    return {"group": OVO_GROUPS[task], "task": task}


def read_ovo_answers(path: Path, records: Sequence[Any]) -> RowSet[ChoiceRow]:
    """Read showlab/livecc's answers to OVO-Bench; the times of a forward record follow one another in the file.

    Raises:
        ValueError: if a column is missing or a task is unknown.
    """
    n_seen: Counter[Any] = Counter()
    rows = []
    for index, record in enumerate(records):
        rows.append(_made(_ovo_answer_row, f"{path}: entry {index}", record, n_seen))
    rows, again = _first_answers(rows, path)
    header = Header("choice", suite="ovobench", protocol="livecc", version="")
    return RowSet(header, rows, str(path), "OVO-Bench answers of showlab/livecc", again)


def _ovo_answer_row(record: dict[str, Any], n_seen: Counter[Any]) -> ChoiceRow:
    task, key = record["task"], str(record["id"])
    kind = LETTER
    if task in FORWARD:
        kind = COUNT if task == "REC" else YES_NO
        key = f"{key}_{n_seen[key]}"
        n_seen[str(record["id"])] += 1
    return ChoiceRow(
        # The file names no video: questions of one record are about one.
        key=key,
        video=str(record["id"]),
        answer=record["answer"],
        response=record["response"],
        kind=kind,
        groups=ovo_groups(task),
    )
