"""Manifests for the tests of data production."""

import json
from pathlib import Path


def video_row(number: int, title: str = "", seconds: int = 60) -> dict:
    """Return a video with two words per second; every third video has a pause that makes two clips of it."""
    gap_s = 10 if number % 3 == 0 else 0
    n_words = 2 * seconds
    words = [
        [
            round(0.5 * i + (gap_s if i >= n_words // 2 else 0), 2),
            round(0.5 * i + 0.4 + (gap_s if i >= n_words // 2 else 0), 2),
            f"w{number}x{i}",
        ]
        for i in range(n_words)
    ]
    return {
        "id": f"v{number}",
        "video": f"v{number}.mp4",
        "title": title,
        "duration_s": float(seconds + gap_s),
        "words": words,
    }


def write_manifest(path: Path, titles: list[str], **options) -> Path:
    """Write a manifest with a video for each title; the title "bad line" gives a line that is not JSON."""
    lines = [
        "{not json" if title == "bad line" else json.dumps(video_row(number, title, **options))
        for number, title in enumerate(titles)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
