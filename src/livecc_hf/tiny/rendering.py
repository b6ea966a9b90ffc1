"""Draws the small world: uint8 RGB frames at any size, and mp4 files.

Sprites are drawn once per shape, colour and sub-pixel offset at three times the size, shrunk with the video
processor's filter, and pasted. A frame drawn at the model's size therefore looks like a resized large frame, at a
fraction of the cost.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from .scene import MARK_S, RADIUS, Scene

PALETTE = {
    "red": (232, 64, 52),
    "green": (52, 196, 92),
    "blue": (52, 116, 250),
    "yellow": (250, 208, 52),
    "purple": (186, 74, 228),
}
VIDEO_SIZE_PX = 336
VIDEO_FPS = 20
FADE_S = 0.2
_SPAN = 3.0 * RADIUS  # side of a sprite's canvas in field widths
_DETAIL = 3  # supersampling factor of sprites
_OFFSETS = 4  # sub-pixel positions per axis
_MARK_STEPS = 9


def draw_frames(scene: Scene, times_s: list[float], size_px: int) -> np.ndarray:
    """Draw a scene at the given times.

    Returns:
        uint8 (len(times_s), 3, size_px, size_px), RGB.
    """
    return np.stack([draw_frame(scene, time_s, size_px) for time_s in times_s]).transpose(0, 3, 1, 2)


def draw_frame(scene: Scene, time_s: float, size_px: int) -> np.ndarray:
    """Draw one moment as uint8 (size_px, size_px, 3), RGB."""
    canvas = _background(size_px).copy()
    for track in scene.tracks:
        alpha = _fade(track.born_s, track.gone_s, time_s)
        if alpha > 0:
            x, y, _, _ = track.at(time_s)
            _paste(canvas, ("object", track.shape, track.colour_at(time_s), ""), x, y, alpha)
    for mark in scene.marks:
        age_s = time_s - mark.time_s
        track = scene.tracks[mark.track]
        step = str(int(age_s / MARK_S * _MARK_STEPS))
        if 0 <= age_s < MARK_S and mark.kind == "gone":
            x, y, _, _ = track.at(mark.time_s)
            key = ("ghost", track.shape, track.colour_at(mark.time_s), step)
            _paste(canvas, key, x, y, 1.0)
        elif 0 <= age_s < MARK_S and track.visible_at(time_s):
            x, y, _, _ = track.at(time_s)
            _paste(canvas, ("mark", mark.kind, "", step), x, y, 1.0)
    return (np.clip(canvas, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def write_video(scene: Scene, path: str | Path, size_px: int = VIDEO_SIZE_PX, fps: int = VIDEO_FPS) -> None:
    """Write a scene as an H.264 mp4 of ``round(duration_s * fps)`` frames."""
    import av

    with av.open(f"file:{path}", "w") as container:  # the scheme protects names that contain a colon
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "fast"})
        stream.width = stream.height = size_px
        stream.pix_fmt = "yuv420p"
        for index in range(round(scene.duration_s * fps)):
            image = draw_frame(scene, index / fps, size_px)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _fade(born_s: float, gone_s: float, time_s: float) -> float:
    if time_s < born_s or time_s >= gone_s + FADE_S:
        return 0.0
    fade_in = 1.0 if born_s == 0 else min((time_s - born_s) / FADE_S, 1.0)
    return fade_in if time_s < gone_s else fade_in * (1 - (time_s - gone_s) / FADE_S)


def _paste(canvas: np.ndarray, key: tuple[str, str, str, str], x: float, y: float, alpha: float) -> None:
    size_px = canvas.shape[0]
    side_px = _side_px(size_px)
    left, top = x * size_px - side_px / 2, y * size_px - side_px / 2
    column, row = int(np.floor(left)), int(np.floor(top))
    offset = (int((left - column) * _OFFSETS), int((top - row) * _OFFSETS))
    sprite = _sprite(key, size_px, offset)
    x0, y0 = max(column, 0), max(row, 0)
    x1, y1 = min(column + side_px, size_px), min(row + side_px, size_px)
    if x0 >= x1 or y0 >= y1:
        return
    part = sprite[y0 - row : y1 - row, x0 - column : x1 - column]
    patch = canvas[y0:y1, x0:x1]
    patch *= 1 - alpha * part[..., 3:]
    patch += alpha * part[..., :3]


def _side_px(size_px: int) -> int:
    return int(np.ceil(_SPAN * size_px)) + 1


@lru_cache(maxsize=4096)
def _sprite(key: tuple[str, str, str, str], size_px: int, offset: tuple[int, int]) -> np.ndarray:
    """Return premultiplied RGBA, float32 (side, side, 4), with the centre moved by the sub-pixel offset."""
    side_px = _side_px(size_px)
    fine = (np.arange(side_px * _DETAIL, dtype=np.float32) + 0.5) / _DETAIL - side_px / 2
    unit = RADIUS * size_px
    u = (fine[None, :] - (offset[0] + 0.5) / _OFFSETS) / unit
    v = (fine[:, None] - (offset[1] + 0.5) / _OFFSETS) / unit
    soft = 1 / (unit * _DETAIL)
    kind, name, colour, step = key
    if kind == "object":
        image = _object(name, colour, u, v, soft)
    elif kind == "ghost":
        image = _ghost(name, colour, int(step), u, v)
    else:
        image = _mark(name, int(step), u, v)
    return _shrink(image, side_px)


def _object(shape: str, colour: str, u: np.ndarray, v: np.ndarray, soft: float) -> np.ndarray:
    """Draw one object over its soft shadow; ``u`` and ``v`` are in radii from the centre."""
    shadow = 0.45 * np.clip(1.5 - np.hypot(u - 0.08, v - 0.2) / 0.95, 0, 0.5) * 2
    light = np.clip(1.0 - 0.22 * (u + v), 0.6, 1.25)[..., None]
    base = np.clip(np.array(PALETTE[colour], dtype=np.float32) / 255 * light, 0, 1)
    layers = [(shadow, np.zeros(3, np.float32)), (_cover(_outline(shape, u, v), soft), base)]
    if shape == "ball":
        layers.append((0.95 * _cover(np.hypot(u + 0.32, v + 0.34) - 0.3, soft), np.ones(3)))
    elif shape == "square":
        layers.append((_cover(np.maximum(abs(u), abs(v)) - 0.36, soft), np.full(3, 0.06)))
    image = np.zeros((*np.broadcast_shapes(u.shape, v.shape), 4), np.float32)
    for alpha, paint in layers:
        alpha = np.broadcast_to(alpha, image.shape[:2])[..., None]
        image *= 1 - alpha
        image += alpha * np.concatenate([np.broadcast_to(paint, (*image.shape[:2], 3)), np.ones_like(alpha)], -1)
    return image


def _outline(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the signed distance to a shape's edge in radii, negative inside."""
    if shape == "ball":
        return np.hypot(u, v) - 0.98
    if shape == "square":
        return np.maximum(abs(u), abs(v)) - 0.86
    return np.maximum(abs(u) * 0.875 - (v + 1.05) * 0.484, v - 0.82)


def _mark(kind: str, step: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw a white mark around an object.

    The mark is a ring after a change of colour, dashes after a hit, an arc after a turn, and four sparks at its
    appearance.
    """
    growth = (step + 0.5) / _MARK_STEPS
    distance = np.hypot(u, v)
    if kind == "appear":
        inside = np.hypot(abs(u) - 1.0 - 0.15 * growth, abs(v) - 1.0 - 0.15 * growth) < 0.22
    elif kind == "hit":
        dashes = np.abs(np.sin(4 * np.arctan2(v, u))) > 0.5
        inside = (np.abs(distance - 1.12 - 0.16 * growth) < 0.14) & dashes
    elif kind == "turn":
        inside = (np.abs(distance - 1.12 - 0.16 * growth) < 0.12) & (v < -0.3)
    else:
        inside = np.abs(distance - 1.1 - 0.18 * growth) < 0.1
    alpha = np.where(inside, 1 - 0.45 * growth, 0)[..., None].astype(np.float32)
    return np.concatenate([alpha, alpha, alpha, alpha], -1)


def _ghost(shape: str, colour: str, step: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw the fading outline of an object that disappeared."""
    growth = (step + 0.5) / _MARK_STEPS
    inside = np.abs(_outline(shape, u, v) + 0.13) < 0.13
    alpha = np.where(inside, 1 - 0.5 * growth, 0)[..., None].astype(np.float32)
    return np.concatenate([alpha * np.array(PALETTE[colour], np.float32) / 255, alpha], -1)


def _cover(distance: np.ndarray, soft: float) -> np.ndarray:
    return np.clip(0.5 - distance / soft, 0, 1)


@lru_cache(maxsize=8)
def _background(size_px: int) -> np.ndarray:
    """Return a dark blue floor, lighter in the middle, with a thin frame; float32 (size_px, size_px, 3)."""
    side_px = size_px * _DETAIL
    axis = (np.arange(side_px, dtype=np.float32) + 0.5) / side_px - 0.5
    glow = np.clip(1 - 1.3 * np.hypot(axis[None, :], axis[:, None]), 0, 1)[..., None]
    low, high = np.array([18, 22, 40], np.float32) / 255, np.array([52, 60, 92], np.float32) / 255
    image = low + (high - low) * glow
    edge = np.maximum(abs(axis[None, :]), abs(axis[:, None])) > 0.493
    image[edge] = np.array([88, 98, 130], np.float32) / 255
    return _shrink(image, size_px)


def _shrink(image: np.ndarray, side_px: int) -> np.ndarray:
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).permute(2, 0, 1)
    small = torch.nn.functional.interpolate(
        tensor[None], (side_px, side_px), mode="bicubic", antialias=True, align_corners=False
    )
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())
