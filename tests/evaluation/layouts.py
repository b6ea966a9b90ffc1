"""Synthetic files in published formats."""

import json
from pathlib import Path

LETTERS = "ABCD"


def write_json(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, values) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def videomme(answers: list[tuple[str, str]], duration: str = "short") -> list[dict]:
    """Return videos with two questions each; `answers` are pairs of the correct letter and the response."""
    options = [f"{letter}. {text}" for letter, text in zip(LETTERS, ("Red.", "Blue.", "Green.", "None of the above."))]
    videos = []
    for number, (answer, response) in enumerate(answers):
        if number % 2 == 0:
            videos.append(
                {
                    "video_id": f"{number // 2:03d}",
                    "duration": duration,
                    "domain": "Knowledge" if number % 4 == 0 else "Life Record",
                    "sub_category": "Law",
                    "questions": [],
                }
            )
        videos[-1]["questions"].append(
            {
                "question_id": f"{number // 2:03d}-{number % 2 + 1}",
                "task_type": "Counting Problem",
                "question": "Which colour?",
                "options": options,
                "answer": answer,
                "response": response,
            }
        )
    return videos


def ovo_question(number: int, task: str, answer: str, response, video: str = "v.mp4") -> dict:
    return {
        "id": number,
        "video": video,
        "task": task,
        "question": "What?",
        "response": response,
        "ground_truth": answer,
    }


def ovo_count(number: int, answers: list[tuple[int, object]]) -> dict:
    tests = [{"realtime": 5 + i, "count": n, "response": said} for i, (n, said) in enumerate(answers)]
    return {"id": number, "task": "REC", "video": "r.mp4", "activity": "jump", "test_info": tests}


def ovo_yes_no(number: int, task: str, answers: list[tuple[int, object]]) -> dict:
    tests = [{"realtime": 5 + i, "type": n, "response": said} for i, (n, said) in enumerate(answers)]
    return {"id": number, "task": task, "video": "s.mp4", "question": "Who?", "test_info": tests}


def ovo(backward=(), realtime=(), forward=()) -> dict:
    return {"backward": list(backward), "realtime": list(realtime), "forward": list(forward)}


def commentaries(texts: list[str], n_videos: int = 10) -> list[dict]:
    return [
        {"video_id": f"vid_{i % n_videos}", "event_id": i, "begin": 10.0 * i, "end": 10.0 * i + 20, "pred": text}
        for i, text in enumerate(texts)
    ]


def verdicts(rows: list[dict], winners: list[tuple[str, str]]) -> list[dict]:
    return [
        {"video_event_id": f"{row['video_id']}_{row['event_id']}", "ab_winner": ab, "ba_winner": ba}
        for row, (ab, ba) in zip(rows, winners)
    ]
