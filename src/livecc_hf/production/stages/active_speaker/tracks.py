"""Tracks faces from picture to picture, and crops the tracked faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

FACE_PX = 112  # side of a face as the networks see it
_GRAY = (0.2989, 0.5870, 0.1140)


@dataclass
class Track:
    """A face in consecutive pictures.

    Attributes:
        first: index of the first picture.
        boxes: for each picture, float32 of shape (4,): left, top, right, bottom in pixels.
    """

    first: int
    boxes: list[np.ndarray] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.boxes)


def link_faces(faces: Sequence[np.ndarray], min_overlap: float, min_frames: int) -> list[Track]:
    """Link faces that overlap from one picture to the next into tracks.

    Pairs of a track's last face and a face of the next picture are linked in the order of their overlap, largest first.
    A track ends at a picture in which no face overlaps its last one enough, as at a cut or when the person leaves.

    Args:
        faces: for each picture, float32 of shape (faces, 4).
        min_overlap: linked faces overlap by more than this (intersection over union).
        min_frames: shorter tracks are left out.
    """
    live: list[Track] = []
    done: list[Track] = []
    for index, boxes in enumerate(faces):
        going, free = [], set(range(len(boxes)))
        overlaps = _overlaps(np.array([track.boxes[-1] for track in live]), boxes)
        waiting = set(range(len(live)))
        for place in np.argsort(-overlaps, axis=None, kind="stable"):
            track, box = divmod(int(place), max(len(boxes), 1))
            if overlaps[track, box] <= min_overlap:
                break
            if track in waiting and box in free:
                live[track].boxes.append(boxes[box])
                going.append(live[track])
                waiting.discard(track)
                free.discard(box)
        done += [live[number] for number in sorted(waiting)]
        live = going + [Track(index, [boxes[box]]) for box in sorted(free)]
    found = [track for track in done + live if len(track) >= min_frames]
    return sorted(found, key=lambda track: (track.first, track.boxes[0].tolist()))


def _overlaps(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the intersection over union of all pairs, of shape (ours, theirs)."""
    if not len(ours) or not len(theirs):
        return np.zeros((len(ours), len(theirs)))
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (ours, theirs)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def cut_out(frames: np.ndarray, track: Track) -> np.ndarray:
    """Return the crops of a tracked face, in gray and resized to a square.

    Args:
        frames: uint8 of shape (frames, height, width, 3), RGB.
        track: of a face in these frames.

    Returns:
        float32 of shape (len(track), 112, 112), 0 to 255.
    """
    import torch
    from torchvision.transforms.v2.functional import resize

    faces = np.empty((len(track), FACE_PX, FACE_PX), np.float32)
    weights = np.array(_GRAY, np.float32)
    for number, box in enumerate(track.boxes):
        left, top = np.floor(box[:2]).astype(int)
        right, bottom = np.ceil(box[2:]).astype(int)
        piece = frames[track.first + number, top:bottom, left:right].astype(np.float32) @ weights
        faces[number] = resize(torch.from_numpy(piece)[None], [FACE_PX, FACE_PX], antialias=True)[0].numpy()
    return faces
