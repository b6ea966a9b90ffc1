"""Reads answers in the formats published by Video-MME, OVO-Bench and showlab/livecc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .file import RowSet
from .header import Header
from .rows import COUNT, LETTER, YES_NO, ChoiceRow

ResultT = TypeVar("ResultT")
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
    """Return whether a JSON value is a video with a list of questions."""
    return isinstance(value, dict) and isinstance(value.get("questions"), list)


def read_nested(path: Path, videos: Sequence[Any]) -> RowSet[ChoiceRow]:
    """Read a list of videos with `questions`: Video-MME, LiveSports-3K QA or MVBench results.

    Raises:
        ValueError: if a column is missing.
    """
    for number, video in enumerate(videos):
        if not is_nested(video):
            raise ValueError(f"{path}: entry {number} has no list of questions")
        for index, question in enumerate(video["questions"]):
            if not isinstance(question, dict):
                place = f"{path}: entry {number}, question {index}"
                raise ValueError(f"{place} cannot be used: it is {question!r:.80}, expected an object")
    first: dict[str, Any] = next((question for video in videos for question in video["questions"]), {})
    if "q_type" in first:
        suite, make = "livesports3k-qa", _qa_row
    elif "duration" in videos[0]:
        suite, make = "videomme", _videomme_row
    else:
        suite, make = "mvbench", _mvbench_row
    rows = []
    for number, video in enumerate(videos):
        for index, question in enumerate(video["questions"]):
            rows.append(_call(make, f"{path}: entry {number}, question {index}", video, question))
    rows, notes = _first_answers(rows, path)
    protocol = "official" if suite == "videomme" and not _chosen_by_logits(videos) else "livecc"
    header = Header("choice", suite=suite, protocol=protocol, version="")
    return RowSet(header, rows, str(path), f"{suite} results", notes)


def _chosen_by_logits(videos: Sequence[dict[str, Any]]) -> bool:
    """Return whether all responses are exactly one of their options, as when showlab/livecc chooses by logits.

    Among generated answers, some always differ from the text of an option.
    """
    questions = [question for video in videos for question in video["questions"]]
    return all(question["response"] in question["options"] for question in questions)


def _first_answers(rows: Sequence[ChoiceRow], source: Path) -> tuple[list[ChoiceRow], list[str]]:
    """Return the first row of each key, and a note on repeated keys, which some published files have."""
    first: dict[str, ChoiceRow] = {}
    for row in rows:
        first.setdefault(row.key, row)
    n_repeated = len(rows) - len(first)
    note = f"{source}: {n_repeated:,} rows answer a question again; the first answer counts"
    return list(first.values()), [note] if n_repeated else []


def _call(make: Callable[..., ResultT], place: str, *values: Any) -> ResultT:
    """Return `make(*values)`; if a column is missing or invalid, raise a `ValueError` that names the place."""
    try:
        return make(*values)
    except KeyError as error:
        raise ValueError(f"{place} has no column {error}") from error
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{place} cannot be used: {error}") from error


def _videomme_row(video: dict[str, Any], question: dict[str, Any]) -> ChoiceRow:
    names = ("duration", "domain", "sub_category")
    return ChoiceRow(
        key=_text(question["question_id"]),
        video=_text(video["video_id"]),
        answer=question["answer"],
        response=question["response"],
        groups={name: _text(video[name]) for name in names} | {"task_type": _text(question["task_type"])},
        options=without_letters(question["options"]),
    )


def _qa_row(video: dict[str, Any], question: dict[str, Any]) -> ChoiceRow:
    return ChoiceRow(
        key=str(question["question_id"]),
        video=_text(video["video_id"]),
        answer=question["answer"],
        response=question["response"],
        groups={"q_type": _text(question["q_type"]), "ocr": str(question["OCR"])},
        options=without_letters(question["options"]),
    )


def _mvbench_row(video: dict[str, Any], question: dict[str, Any]) -> ChoiceRow:
    return ChoiceRow(
        key=f"{question['task_type']}/{video['video']}/{question['question']}/{question['answer']}",
        video=video["video"],
        answer=question["answer"],
        response=question["response"],
        groups={"task_type": _text(question["task_type"])},
        options=without_letters(question["options"]),
    )


def _text(value: Any) -> Any:
    """Return a whole number as text, as some files have numbers for names, and any other value unchanged."""
    return str(value) if isinstance(value, int) else value


def without_letters(options: Sequence[str]) -> list[str]:
    """Return options without their letters: "A. Yes", "A: Yes" and "(A) Yes" become "Yes".

    Raises:
        ValueError: if `options` is not a list of strings, or empty.
    """
    is_list = isinstance(options, Sequence) and not isinstance(options, str)
    if not is_list or not options or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options are {options!r:.80}: expected a non-empty list of strings")
    texts = []
    for number, option in enumerate(options):
        letter = chr(ord("A") + number)
        starts = (f"({letter})", f"{letter}.", f"{letter}:")
        start = next((start for start in starts if option.startswith(start)), "")
        texts.append(option.removeprefix(start).strip())
    return texts


def read_ovo_results(parts: Sequence[tuple[Path, dict[str, Any]]], source: Path) -> RowSet[ChoiceRow]:
    """Read OVO-Bench's result files, each of which may hold only some of the tasks.

    Args:
        parts: the files with their JSON values.
        source: the file, or the folder with the files.

    Raises:
        ValueError: if a column is missing or a task is unknown.
    """
    rows, notes = [], []
    for path, value in parts:
        for group in ("backward", "realtime", "forward"):
            if not isinstance(value.get(group) or [], list):
                raise ValueError(f"{path}: {group} is {value[group]!r:.80}: expected a list")
        for group in ("backward", "realtime"):
            for index, record in enumerate(value.get(group) or ()):
                rows.append(_call(_ovo_row, f"{path}: {group} {index}", record))
        for index, record in enumerate(value.get("forward") or ()):
            rows += _call(_ovo_forward_rows, f"{path}: forward {index}", record)
    # Some published files hold each answer in a list of its own.
    n_lists = sum(isinstance(row.response, list) and len(row.response) == 1 for row in rows)
    if n_lists:
        rows = [
            replace(row, response=row.response[0]) if isinstance(row.response, list) and len(row.response) == 1 else row
            for row in rows
        ]
        notes.append(f"{source}: {n_lists:,} responses are lists of one text, and are read as that text")
    rows, repeat_notes = _first_answers(rows, source)
    header = Header("choice", suite="ovobench", protocol="official", version="")
    return RowSet(header, rows, str(source), "OVO-Bench results", notes + repeat_notes)


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
    """Return the correct answer of an OVO-Bench forward task at one of its times."""
    return str(int(test["count"])) if task == "REC" else YES_NO_ANSWERS[test["type"]]


def ovo_groups(task: str) -> dict[str, str]:
    """Return the groups of a row of an OVO-Bench task.

    Raises:
        ValueError: if the task is unknown.
    """
    if task not in OVO_GROUPS:
        raise ValueError(f"task {task!r} is unknown: expected one of OVO-Bench's {', '.join(OVO_GROUPS)}")
    return {"group": OVO_GROUPS[task], "task": task}


def read_ovo_answers(path: Path, records: Sequence[Any]) -> RowSet[ChoiceRow]:
    """Read showlab/livecc's answers to OVO-Bench, in which the times of a forward record are in order.

    Raises:
        ValueError: if a column is missing or a task is unknown.
    """
    n_seen: Counter[Any] = Counter()
    rows = []
    for index, record in enumerate(records):
        rows.append(_call(_ovo_answer_row, f"{path}: entry {index}", record, n_seen))
    rows, notes = _first_answers(rows, path)
    header = Header("choice", suite="ovobench", protocol="livecc", version="")
    return RowSet(header, rows, str(path), "OVO-Bench answers of showlab/livecc", notes)


def _ovo_answer_row(record: dict[str, Any], n_seen: Counter[Any]) -> ChoiceRow:
    task, key = record["task"], str(record["id"])
    kind = LETTER
    if task in FORWARD:
        kind = COUNT if task == "REC" else YES_NO
        key = f"{key}_{n_seen[key]}"
        n_seen[str(record["id"])] += 1
    return ChoiceRow(
        key=key,
        video=str(record["id"]),  # the file does not name videos, but a record is about one video
        answer=record["answer"],
        response=record["response"],
        kind=kind,
        groups=ovo_groups(task),
    )
