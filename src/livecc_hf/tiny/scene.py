"""Defines the parts of a scene of the small world: object tracks, marks and events.

The field is a unit square, ``x`` to the right and ``y`` downwards, lengths in field widths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("ball", "square", "triangle")
VERBS = (
    "appears",
    "enters",
    "moves",
    "stops",
    "turns",
    "bounces",
    "hits",
    "leaves",
    "disappears",
    "changes",
)
RADIUS = 0.105
MARKS = ("appear", "turn", "change", "hit", "gone")
MARK_S = 1.6  # long enough for the narrator to start its sentence


@dataclass(frozen=True)
class Event:
    """Something that happened to one object.

    Args:
        time_s: seconds from the clip's start.
        verb: one of `VERBS`.
        colour: the object's colour; the new one of ``changes``.
        shape: the object's shape.
        detail: the shape that was hit by ``hits``, else empty.
    """

    time_s: float
    verb: str
    colour: str
    shape: str
    detail: str = ""


@dataclass(frozen=True)
class Mark:
    """A visual mark of an event at an object, shown for `MARK_S` seconds.

    ``track`` is the object's index in the scene, ``kind`` one of `MARKS`. "gone" stays where the object
    disappeared; the others follow the object.
    """

    time_s: float
    track: int
    kind: str


@dataclass
class ObjectTrack:
    """One object over time: linear pieces of motion, and colours.

    ``pieces`` holds (start_s, x, y, velocity_x, velocity_y), ``colours`` (start_s, colour); the object
    is drawn from ``born_s`` to ``gone_s``.
    """

    shape: str
    born_s: float
    gone_s: float = math.inf
    pieces: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    colours: list[tuple[float, str]] = field(default_factory=list)

    def at(self, time_s: float) -> tuple[float, float, float, float]:
        """Return position and velocity (x, y, velocity_x, velocity_y) at a time."""
        piece = self.pieces[0]
        for candidate in self.pieces:
            if candidate[0] > time_s:
                break
            piece = candidate
        start_s, x, y, vx, vy = piece
        return x + vx * (time_s - start_s), y + vy * (time_s - start_s), vx, vy

    def colour_at(self, time_s: float) -> str:
        """Return the colour at a time."""
        colour = self.colours[0][1]
        for start_s, name in self.colours:
            if start_s > time_s:
                break
            colour = name
        return colour

    def visible_at(self, time_s: float) -> bool:
        """Return whether the object exists at a time."""
        return self.born_s <= time_s < self.gone_s


@dataclass(frozen=True)
class Scene:
    """A finished simulation: ``duration_s`` seconds of tracks, marks and events in time order."""

    duration_s: float
    tracks: list[ObjectTrack]
    marks: list[Mark]
    events: list[Event]
