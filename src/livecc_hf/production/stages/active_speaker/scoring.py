"""Scores the faces of a window: whether they speak in each frame."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .faces import FaceDetector
from .mfcc import mfcc
from .tracks import Track, cut_out, link_faces
from .windows import MFCC_PER_FRAME, Pictures

if TYPE_CHECKING:
    from .networks import SpeakerNetwork

# Both as in the reference.
MIN_OVERLAP = 0.7  # IoU of a face from one picture to the next
MIN_TRACK_FRAMES = 5
_FRAMES_AT_ONCE = 32  # per call of the detector


class ScoredTrack(NamedTuple):
    """A tracked face in a window, with its scores.

    Attributes:
        first: index of its first picture in the window.
        boxes: float32 of shape (frames, 4): left, top, right, bottom as fractions of the picture's sides.
        logits: float32 of shape (frames,); above 0 the face speaks.
    """

    first: int
    boxes: np.ndarray
    logits: np.ndarray


def find_tracks(pictures: Pictures, detector: FaceDetector, min_face_px: float) -> list[Track]:
    """Return the tracked faces of a window.

    Args:
        pictures: of the window.
        detector: of faces.
        min_face_px: minimum height of a face, in pixels of the video.
    """
    frames = pictures.frames
    found = [
        boxes
        for first in range(0, len(frames), _FRAMES_AT_ONCE)
        for boxes in detector(frames[first : first + _FRAMES_AT_ONCE])
    ]
    least = min_face_px * pictures.scale
    return link_faces([boxes[boxes[:, 3] - boxes[:, 1] >= least] for boxes in found], MIN_OVERLAP, MIN_TRACK_FRAMES)


def score_tracks(
    network: SpeakerNetwork, pictures: Pictures, tracks: list[Track], sound: np.ndarray, window: int, batch: int
) -> list[ScoredTrack]:
    """Return the tracks with the network's logit for each frame.

    Args:
        network: on its device.
        pictures: of the window.
        tracks: of the window's faces.
        sound: of the clip, as `clip_sound` returns it.
        window: index of the window's first frame in the clip.
        batch: maximum number of tracks in a forward pass.
    """
    import torch

    device = next(network.parameters()).device
    first = window + pictures.first
    heard = mfcc(sound, first * MFCC_PER_FRAME, len(pictures.frames) * MFCC_PER_FRAME)
    height, width = pictures.frames.shape[1:3]
    logits: dict[int, np.ndarray] = {}
    for group in _of_one_length(tracks, batch):
        faces = np.stack([cut_out(pictures.frames, tracks[i]) for i in group])
        begins = [tracks[i].first * MFCC_PER_FRAME for i in group]
        sounds = np.stack([heard[begin : begin + faces.shape[1] * MFCC_PER_FRAME] for begin in begins])
        with torch.inference_mode():
            found = network(torch.from_numpy(faces).to(device), torch.from_numpy(sounds).to(device))
        logits |= dict(zip(group, found.cpu().numpy(), strict=True))
    sides = np.array([width, height, width, height], np.float32)
    return [ScoredTrack(track.first, np.stack(track.boxes) / sides, logits[i]) for i, track in enumerate(tracks)]


def _of_one_length(tracks: list[Track], batch: int) -> Iterator[list[int]]:
    """Yield groups of tracks of equal length: without padding, a track's score does not depend on other tracks."""
    groups: dict[int, list[int]] = defaultdict(list)
    for number, track in enumerate(tracks):
        groups[len(track)].append(number)
    for numbers in groups.values():
        for first in range(0, len(numbers), batch):
            yield numbers[first : first + batch]


def speaking_frames(tracks: list[ScoredTrack], n_frames: int) -> np.ndarray:
    """Return whether any face speaks in each frame of a window, bool of shape (frames,)."""
    speaks = np.zeros(n_frames, bool)
    for track in tracks:
        speaks[track.first : track.first + len(track.logits)] |= track.logits > 0
    return speaks
