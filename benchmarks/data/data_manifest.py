"""A manifest of synthetic captioned videos, of any size, for `benchmarks/data/data.py`.

Caption lines come from `tests/data/reference_clips/captions.jsonl.gz`, in an order that depends on the seed. Times are
drawn: lines of a few seconds, some silences, now and then a sound such as [Music]. Some videos are of the kinds that
data production drops: too long, too small, without a title, in another language.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np

_CAPTIONS = Path(__file__).parents[2] / "tests/data/reference_clips/captions.jsonl.gz"
_GERMAN = [
    "und dann sehen wir noch einmal wie der Spieler",
    "den Ball in der letzten Minute über die Linie bringt",
    "das hätte vor diesem Spiel wirklich niemand erwartet",
    "jetzt kommt es darauf an ob die Abwehr hält",
]
_CATEGORIES = ("Sports", "Education", "Gaming", "Howto & Style", "Music", "Entertainment")
_BAD_SHARE = 0.03  # of the videos, for each kind that is dropped
_SECONDS = (30, 600)  # shortest and longest video
_WORDS_PER_S = (1.5, 3.2)
_SILENCE_SHARE, _SILENCE_S = 0.02, (3.5, 12)  # between two lines
_MUSIC_SHARE = 0.01


@dataclass(frozen=True)
class ManifestCounts:
    """Sizes of a manifest."""

    videos: int
    caption_lines: int
    hours: float  # of video


def write_manifest(path: Path, n_lines: int, seed: int = 0) -> ManifestCounts:
    """Write videos with `n_lines` caption lines in all; the same seed gives the same bytes."""
    with gzip.open(_CAPTIONS, "rt", encoding="utf-8") as file:
        english = [text for line in file for _, _, text in json.loads(line)["subtitles"]]
    videos, lines, hours = 0, 0, 0.0
    with path.open("w", encoding="utf-8") as file:
        for row in _videos(np.random.default_rng(seed), english):
            row["subtitles"] = row["subtitles"][: n_lines - lines]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            videos += 1
            lines += len(row["subtitles"])
            hours += row["duration_s"] / 3600
            if lines >= n_lines:
                break
    return ManifestCounts(videos, lines, round(hours, 1))


def _videos(random: np.random.Generator, english: list[str]) -> Iterator[dict[str, Any]]:
    """Yield videos indefinitely."""
    for number in count():
        chance = random.random() // _BAD_SHARE  # 0, 1, 2 and 3 are the kinds that are dropped
        duration_s = round(float(random.uniform(*_SECONDS)) + (600 if chance == 0 else 0), 1)
        # Neighbouring lines stay together, so that the words make sentences.
        lines = _GERMAN if chance == 3 else english
        first = int(random.integers(len(lines)))
        yield {
            "id": f"video{number:08d}",
            "video": f"{number // 1000:05d}/video{number:08d}.mp4",
            "title": "" if chance == 1 else f"What happened in video {number}",
            "category": _CATEGORIES[int(random.integers(len(_CATEGORIES)))],
            "language": "en",
            "duration_s": duration_s,
            "width_px": 426 if chance == 2 else 1280,
            "height_px": 240 if chance == 2 else 720,
            "subtitles": list(_lines(random, lines[first:] + lines[:first], duration_s)),
        }


def _lines(random: np.random.Generator, texts: list[str], duration_s: float) -> Iterator[tuple[float, float, str]]:
    """Yield caption lines up to the video's end."""
    at_s, words_per_s = float(random.uniform(0, 2)), float(random.uniform(*_WORDS_PER_S))
    for spoken in cycle(texts):
        text = "[Music]" if random.random() < _MUSIC_SHARE else spoken
        end_s = at_s + (text.count(" ") + 1) / words_per_s
        if end_s >= duration_s:
            return
        yield round(at_s, 2), round(end_s, 2), text
        is_silence = random.random() < _SILENCE_SHARE
        at_s = end_s + float(random.uniform(*_SILENCE_S) if is_silence else random.uniform(0, 0.4))
