"""Makes training samples of the small world: frames at the model's size, times, words and a query.

Two tasks form a curriculum. ``list`` shows unrelated scenes, one per turn, and names their objects; ``narrate`` is the
commentary itself. Both are streams of frames and timed words, so the same grammar encodes both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from livecc_hf.modeling.grammar import FIRST_TURN_FRAMES, FRAME_STEP_S, TURN_FRAMES

from .narration import DEFAULT_NARRATOR, QUERY, Word, narrate
from .rendering import draw_frames
from .scene import COLOURS, SHAPES, Scene
from .world import WorldOptions, simulate

FRAME_SIZE_PX = 84
LONGEST_LAG_S = 0.1  # one frame at 10 frames a second
LIST_QUERY = "List the objects."
MOODS = {
    "calm": WorldOptions(),  # used in evaluation
    "busy": WorldOptions(gap_s=(0.8, 0.1), rest=0.0),  # twice the events a second
    "rare": WorldOptions(weights=(("hits", 1.6), ("turns", 1.5), ("enters", 1.5), ("changes", 1.5), ("stops", 1.3))),
}


@dataclass(frozen=True)
class Clip:
    """One sample before tokenization.

    Args:
        frames: uint8 (T, 3, H, W) at 2 frames a second, square, 84 pixels by default.
        timestamps_s: (T,) seconds from the clip's start.
        words: (start_s, end_s, word) in time order.
        query: the viewer's request.
    """

    frames: np.ndarray
    timestamps_s: list[float]
    words: list[Word]
    query: str


def narration_clip(
    seed: int,
    duration_s: int,
    mood: str = "calm",
    narrator: str = DEFAULT_NARRATOR,
    size_px: int = FRAME_SIZE_PX,
) -> Clip:
    """Return a clip of ``duration_s`` seconds in one of `MOODS`, narrated by one of `NARRATORS`.

    Raises:
        ValueError: if the mood or the narrator is unknown.
    """
    if mood not in MOODS:
        raise ValueError(f"mood is {mood!r}; expected one of: {', '.join(MOODS)}")
    scene = simulate(seed, duration_s, MOODS[mood])
    times_s = [index * FRAME_STEP_S for index in range(2 * duration_s)]
    # A video reader returns the frame on screen at a sample time, which was drawn slightly earlier.
    lag_s = random.Random(f"lag/{seed}").uniform(0.0, LONGEST_LAG_S)
    drawn = draw_frames(scene, [max(time_s - lag_s, 0.0) for time_s in times_s], size_px)
    frames = like_decoded(drawn, seed)
    return Clip(frames, times_s, narrate(scene.events, duration_s, narrator), QUERY)


def cut_window(clip: Clip, window_s: int, seed: int) -> Clip:
    """Return a random window of a clip that starts on a whole second, with the words that end within it.

    Raises:
        ValueError: if the clip is shorter than the window.
    """
    n_frames, a_second = round(window_s / FRAME_STEP_S), round(1 / FRAME_STEP_S)
    if not 0 < n_frames <= len(clip.frames):
        raise ValueError(f"window_s is {window_s}; expected 1 to {len(clip.frames) // a_second}, the clip's length")
    starts = range(0, len(clip.frames) - n_frames + 1, a_second)
    first = random.Random(f"window/{seed}").choice(starts)
    times_s = clip.timestamps_s[first : first + n_frames]
    before_s = clip.timestamps_s[first - 1] if first else -1.0
    words = [word for word in clip.words if before_s < word[1] <= times_s[-1]]
    return Clip(clip.frames[first : first + n_frames], times_s, words, clip.query)


def list_clip(seed: int, n_turns: int, first_frames: int = FIRST_TURN_FRAMES, size_px: int = FRAME_SIZE_PX) -> Clip:
    """Return unrelated scenes, one per turn, each answered with its objects and whether they move or rest."""
    rng = random.Random(f"list/{seed}")
    frames, words, shown = [], [], 0
    for turn in range(n_turns):
        n_frames = first_frames if turn == 0 else TURN_FRAMES
        scene = simulate(rng.randrange(2**31), 8.0)
        start_s = rng.uniform(0.0, 8.0 - n_frames * FRAME_STEP_S)
        times_s = [start_s + index * FRAME_STEP_S for index in range(n_frames)]
        frames.append(draw_frames(scene, times_s, size_px))
        shown += n_frames
        named = list_words(scene, times_s[-2], times_s[-1])
        end_s = (shown - 1) * FRAME_STEP_S
        words += [(end_s, end_s, word) for word in named]
    stream = np.concatenate(frames)
    times_s = [index * FRAME_STEP_S for index in range(len(stream))]
    return Clip(like_decoded(stream, seed), times_s, words, LIST_QUERY)


def list_words(scene: Scene, start_s: float, end_s: float) -> list[str]:
    """Return words that name the objects visible at both times, in a fixed order."""
    named = []
    for track in scene.tracks:
        if track.visible_at(start_s) and track.visible_at(end_s) and track.born_s < start_s:
            x, y, _, _ = track.at(end_s)
            if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
                continue
            x_before, y_before, _, _ = track.at(start_s)
            moves = abs(x - x_before) + abs(y - y_before) > 0.02
            key = (COLOURS.index(track.colour_at(end_s)), SHAPES.index(track.shape))
            named.append((key, "moves." if moves else "rests."))
    words = []
    for (colour, shape), state in sorted(named):
        words += [COLOURS[colour].capitalize(), SHAPES[shape], state]
    return words


def like_decoded(frames: np.ndarray, seed: int) -> np.ndarray:
    """Add a small brightness shift and noise, as mp4 encoding does."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-4, 4, frames.shape, dtype=np.int16)
    noise += rng.integers(-3, 2, (len(frames), 1, 1, 1), dtype=np.int16)
    return np.clip(frames.astype(np.int16) + noise, 0, 255).astype(np.uint8)
