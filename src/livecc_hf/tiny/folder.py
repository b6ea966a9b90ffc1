"""Writes a folder of narrated videos of the small world, to try recipes meant for a user's own videos."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .narration import DEFAULT_NARRATOR, narrate, narrator_verbs
from .rendering import write_video
from .samples import MOODS
from .world import simulate

CLIP_S = 16
_SIZE_PX, _FPS = 168, 10  # twice livecc-tiny's frame size, and fast to encode
_FIRST_SEED = 1 << 40  # never drawn by the training source `tiny`; held-out seeds are negative


def write_narrated_folder(
    folder: str | os.PathLike, n_videos: int, duration_s: int = CLIP_S, narrator: str = DEFAULT_NARRATOR, first: int = 0
) -> None:
    """Write `shapes-00000.mp4` and so on, each with a `.json` file of timed words.

    Args:
        folder: created if missing; files with these names are overwritten.
        n_videos: number of videos.
        duration_s: length of each video in seconds, at least 1.
        narrator: one of `NARRATORS`.
        first: number of the first video; each number gives another scene.

    Raises:
        ValueError: if the narrator is unknown, a number is too small, or `folder` is not a folder.
    """
    narrator_verbs(narrator)
    if n_videos < 1 or duration_s < 1 or first < 0:
        raise ValueError(
            f"n_videos={n_videos}, duration_s={duration_s}, first={first}: expected 1 or more videos and seconds, and "
            "a first number of 0 or more"
        )
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    moods = list(MOODS.values())[:2]  # alternate calm and busy
    for number in range(first, first + n_videos):
        scene = simulate(_FIRST_SEED + number, duration_s, moods[number % 2])
        name = folder / f"shapes-{number:05d}"
        write_video(scene, name.with_suffix(".mp4"), _SIZE_PX, _FPS)
        spoken = narrate(scene.events, duration_s, narrator)
        words = [{"start": start_s, "end": end_s, "word": word} for start_s, end_s, word in spoken]
        name.with_suffix(".json").write_text(json.dumps(words) + "\n", encoding="utf-8")
