"""A folder of narrated videos of the small world, for trying what is meant for one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .narration import DEFAULT_NARRATOR, narrate, narrator_verbs
from .rendering import write_video
from .samples import MOODS
from .world import simulate

CLIP_S = 16
_SIZE_PX, _FPS = 168, 10  # twice what livecc-tiny sees, and quickly written
_FIRST_SEED = 1 << 40  # apart from the clips that the training source `tiny` draws, and not held out as negative ones


def write_narrated_folder(
    folder: str | os.PathLike, n_videos: int, duration_s: int = CLIP_S, narrator: str = DEFAULT_NARRATOR, first: int = 0
) -> None:
    """Write `shapes-00000.mp4` and so on, each with its words and their times beside it in a `.json`.

    Args:
        folder: made if it does not exist; what is there by these names is written again.
        n_videos: how many.
        duration_s: length of each, in seconds.
        narrator: who speaks, one of `NARRATORS`.
        first: number of the first: other numbers, other scenes.

    Raises:
        ValueError: if there is no such narrator, or a number is below 1.
    """
    narrator_verbs(narrator)
    if n_videos < 1 or duration_s < 1 or first < 0:
        raise ValueError(
            f"n_videos={n_videos}, duration_s={duration_s}, first={first}: expected 1 or more videos and seconds, and "
            "a first number of 0 or more"
        )
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    moods = list(MOODS.values())[:2]  # calm and busy, in turn
    for number in range(first, first + n_videos):
        scene = simulate(_FIRST_SEED + number, duration_s, moods[number % 2])
        name = folder / f"shapes-{number:05d}"
        write_video(scene, name.with_suffix(".mp4"), _SIZE_PX, _FPS)
        spoken = narrate(scene.events, duration_s, narrator)
        words = [{"start": start_s, "end": end_s, "word": word} for start_s, end_s, word in spoken]
        name.with_suffix(".json").write_text(json.dumps(words) + "\n", encoding="utf-8")
