"""Writes a folder of narrated videos of the small world, to try recipes meant for a user's own videos."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ..utils.output_folder import make_output_folder
from ..utils.reports import Say, say_to_stderr
from .narration import DEFAULT_NARRATOR, narrate, narrator_verbs
from .rendering import write_video
from .samples import MOODS
from .world import MIN_SCENE_S, simulate

CLIP_S = 16
_SIZE_PX, _FPS = 168, 10  # twice livecc-tiny's frame size, and fast to encode
_SAY_EVERY_S = 10.0
_FIRST_SEED = 1 << 40  # never drawn by the training source `tiny`; held-out seeds are negative


def write_narrated_folder(
    folder: str | os.PathLike,
    n_videos: int,
    duration_s: int = CLIP_S,
    narrator: str = DEFAULT_NARRATOR,
    first: int = 0,
    say: Say = say_to_stderr,
    every_s: float = _SAY_EVERY_S,
) -> None:
    """Write `shapes-00000.mp4` and so on, each with a `.json` file of timed words.

    Args:
        folder: created if missing; files with these names are overwritten.
        n_videos: number of videos.
        duration_s: length of each video in seconds, at least 4.
        narrator: one of `NARRATORS`.
        first: number of the first video; each number gives another scene.
        say: called with lines of progress.
        every_s: seconds between these lines.

    Raises:
        ValueError: if the narrator is unknown, a number is too small, or the folder cannot be made.
    """
    narrator_verbs(narrator)
    for option, value, least in (("videos", n_videos, 1), ("seconds", duration_s, MIN_SCENE_S), ("first", first, 0)):
        if value < least:
            raise ValueError(f"{option} is {value}: expected {least} or more")
    folder = Path(folder).expanduser()
    make_output_folder(folder)
    moods = list(MOODS.values())[:2]  # alternate calm and busy
    said_at_s = time.monotonic()
    for done, number in enumerate(range(first, first + n_videos)):
        if time.monotonic() - said_at_s >= every_s:
            say(f"{done:,} of {n_videos:,} videos")
            said_at_s = time.monotonic()
        scene = simulate(_FIRST_SEED + number, duration_s, moods[number % 2])
        name = folder / f"shapes-{number:05d}"
        write_video(scene, name.with_suffix(".mp4"), _SIZE_PX, _FPS)
        spoken = narrate(scene.events, duration_s, narrator)
        words = [{"start": start_s, "end": end_s, "word": word} for start_s, end_s, word in spoken]
        name.with_suffix(".json").write_text(json.dumps(words) + "\n", encoding="utf-8")
