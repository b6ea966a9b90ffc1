"""Parses and grades answers for each benchmark and protocol, as the benchmark's own code does.

| protocol | Video-MME | OVO-Bench | MVBench | LiveSports-3K QA |
|---|---|---|---|---|
| `livecc` | as `official` | response starts with the answer | first letter | first letter |
| `official` | first of A to D outside fixed phrases | response contains the answer | option letter | - |
| `livecc-fixed` | response equals the answer | the same | the same | the same |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ..predictions.rows import COUNT, LETTER, YES_NO, ChoiceRow

LIVECC, OFFICIAL, FIXED = "livecc", "official", "livecc-fixed"
# Copied from BradyFU/Video-MME's eval_your_results.py, where two missing commas join phrases.
_VIDEOMME_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)


class Grade(NamedTuple):
    """The grade of a response.

    Attributes:
        is_correct: whether it is correct.
        is_valid: whether it can be parsed as an answer.
    """

    is_correct: bool
    is_valid: bool


WRONG = Grade(False, False)
Grader = Callable[[ChoiceRow], Grade]


def grader(suite: str, protocol: str) -> Grader:
    """Return the function that grades the rows of a benchmark by a protocol.

    Raises:
        ValueError: if the benchmark is not scored by that protocol.
    """
    if protocol == FIXED:
        return grade_exact
    found = _GRADERS.get((suite, protocol))
    if found is None:
        known = [name for of, name in _GRADERS if of == suite] + [FIXED]
        raise ValueError(f"{suite} is not scored by protocol {protocol!r}: expected {', '.join(known)}")
    return found


def grade_exact(row: ChoiceRow) -> Grade:
    """Grade a chosen candidate: correct if it equals the answer."""
    response = _text(row.response)
    if response is None:
        return WRONG
    return Grade(response == row.answer, _is_answer(row, response))


def grade_first_letter(row: ChoiceRow) -> Grade:
    """Grade as showlab/livecc does: correct if the first character of the response is the answer."""
    response = _text(row.response)
    if not response:
        return WRONG
    return Grade(response[0] == row.answer, _is_letter(row, response[0]))


def grade_begins_with(row: ChoiceRow) -> Grade:
    """Grade OVO-Bench as showlab/livecc does: correct if the response starts with the answer."""
    response = _text(row.response)
    if not response:
        return WRONG
    return Grade(response.startswith(row.answer), _is_answer(row, response))


def grade_videomme(row: ChoiceRow) -> Grade:
    """Grade as Video-MME's own code does: after removing fixed phrases, the first of A, B, C, D counts."""
    response = _text(row.response)
    letter = videomme_letter(response or "")
    return Grade(letter == row.answer, bool(letter))


def videomme_letter(response: str) -> str:
    """Return the letter that Video-MME's own code finds in a response, or ""."""
    text = response.strip()
    for phrase in _VIDEOMME_PHRASES:
        text = text.replace(phrase, "")
    match = re.search("[ABCD]", text)
    return match[0] if match else ""


def grade_ovo(row: ChoiceRow) -> Grade:
    """Grade as OVO-Bench's own code does: correct if the response contains the answer, so "Answer" contains "A".

    If the response is a list, one item must equal the answer. For counts, all digits are joined into one number.
    """
    response = row.response if isinstance(row.response, list) else _text(row.response)
    if response is None:
        return WRONG
    if row.kind == COUNT:
        digits = "".join(re.findall(r"\d+", _text(response) or ""))
        return Grade(digits == row.answer, bool(digits))
    if row.kind == YES_NO:
        is_short = response in ("N", "Y")
        is_correct = response == row.answer[0] or row.answer in response
        return Grade(is_correct, is_short or any(word in response for word in ("Yes", "No")))
    return Grade(row.answer in response, _has_letter(response))


def grade_mvbench(row: ChoiceRow) -> Grade:
    """Grade as MVBench's own code does: the first word of the response contains "(a)" or is contained in it.

    Dots are removed from the word. MVBench's code counts a word without a letter, such as an empty one, as correct,
    since every option contains it; here it is invalid and wrong.
    """
    line = (_text(row.response) or "").split("\n")[0]
    option = line.strip(" ").lower().split(" ")[0].replace(".", "")
    if not option.strip("()"):
        return WRONG
    answer = f"({row.answer.lower()})"
    return Grade(option in answer or answer in option, re.match(r"\(?[a-z]\b", option) is not None)


_GRADERS: dict[tuple[str, str], Grader] = {
    ("videomme", LIVECC): grade_videomme,  # showlab/livecc uses the benchmark's own code
    ("videomme", OFFICIAL): grade_videomme,
    ("videomme-subtitles", LIVECC): grade_videomme,
    ("videomme-subtitles", OFFICIAL): grade_videomme,
    ("livesports3k-qa", LIVECC): grade_first_letter,
    ("mvbench", LIVECC): grade_first_letter,
    ("mvbench", OFFICIAL): grade_mvbench,
    ("ovobench", LIVECC): grade_begins_with,
    ("ovobench", OFFICIAL): grade_ovo,
}


def _text(response: str | list[str] | None) -> str | None:
    """Return a response as one text; for a list, its first item."""
    if isinstance(response, list):
        response = response[0] if response else None
    return response if response is None else str(response)


def _is_answer(row: ChoiceRow, response: str) -> bool:
    """Return whether a response has the form of an answer to this kind of question."""
    if row.kind == LETTER:
        return _is_letter(row, response[:1])
    if row.kind == YES_NO:
        return response.startswith(("Yes", "No"))
    return response.isdecimal()


def _is_letter(row: ChoiceRow, letter: str) -> bool:
    n_options = len(row.options) or 26
    return len(letter) == 1 and 0 <= ord(letter) - ord("A") < n_options


def _has_letter(response: str | list[str]) -> bool:
    texts = response if isinstance(response, list) else [response]
    return any(re.search("[A-E]", str(text)) for text in texts)
