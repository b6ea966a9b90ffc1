"""F1@2s on OVO-Bench's forward tasks, as OVO-Timing computes it (MCG-NJU/VideoChat3, vlmeval/dataset/ovo_timing.py).

A model watches a stream and decides by itself when to answer. An answer is due when the clue appears (CRR), or two
seconds after an event or step begins (REC, SSR). Each due time is matched with the first answer, in the given order,
within two seconds of it. A task's precision and recall are means over its records, its F1 is computed from these means,
and the score is the mean F1 of the three tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TASKS = ("CRR", "REC", "SSR")
TOLERANCE_S, DELAY_S = 2.0, 2.0


class TimingScore(NamedTuple):
    """Precision, recall and F1 of a task, each from 0 to 1."""

    precision: float
    recall: float
    f1: float


def true_times_s(record: Mapping[str, Any]) -> list[float]:
    """Return the times in seconds at which answers to a record of OVO-Bench are due.

    Raises:
        ValueError: if the record is not of one of the three tasks.
        KeyError: if a column is missing.
    """
    task = record["task"]
    if task not in TASKS:
        raise ValueError(f"task {task!r} has no true times: expected one of {', '.join(TASKS)}")
    if task == "CRR":
        return [float(record["clue_time"])]
    times = record["start_times"] if task == "REC" else record["start_time"]
    return [float(time) + DELAY_S for time in times]


def stream_span_s(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return start and end of a record's stream in seconds: CRR starts when the question is asked, others at 0."""
    begin = float(record["ask_time"]) if record["task"] == "CRR" else 0.0
    return begin, float(record["test_info"][-1]["realtime"])


def match(true_s: Sequence[float], answers_s: Sequence[float], tolerance_s: float = TOLERANCE_S) -> tuple[float, float]:
    """Return precision and recall of one record; 0 instead of a division by zero."""
    left = list(answers_s)
    n_correct = 0
    for time in true_s:
        for number, answer in enumerate(left):
            if abs(answer - time) <= tolerance_s:
                n_correct += 1
                left.pop(number)
                break
    precision = n_correct / len(answers_s) if answers_s else 0.0
    return precision, n_correct / len(true_s) if true_s else 0.0


def ovo_timing(
    records: Sequence[Mapping[str, Any]], answers_s: Mapping[str, Sequence[float]]
) -> tuple[float, dict[str, TimingScore]]:
    """Return the mean F1 of the tasks, and precision, recall and F1 of each task.

    Args:
        records: OVO-Bench's annotations; records of other tasks are ignored.
        answers_s: the times of a model's answers in seconds, in the order given, by record id; a missing record means
            that the model did not answer.
    """
    pairs: dict[str, list[tuple[float, float]]] = {task: [] for task in TASKS}
    for record in records:
        if record["task"] in pairs:
            pairs[record["task"]].append(match(true_times_s(record), answers_s.get(str(record["id"]), ())))
    scores = {task: _task_score(values) for task, values in pairs.items()}
    return sum(score.f1 for score in scores.values()) / len(TASKS), scores


def _task_score(pairs: Sequence[tuple[float, float]]) -> TimingScore:
    precision = sum(pair[0] for pair in pairs) / len(pairs) if pairs else 0.0
    recall = sum(pair[1] for pair in pairs) / len(pairs) if pairs else 0.0
    total = precision + recall
    return TimingScore(precision, recall, 2 * precision * recall / total if total > 0 else 0.0)
