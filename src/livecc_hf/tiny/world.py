"""Simulates the small world: a director starts actions, physics reacts, and each change is an event.

The director makes objects appear, start to move or turn; physics makes them bounce off a wall, hit another object or
leave. The seed determines everything.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from .scene import COLOURS, RADIUS, SHAPES, Event, Mark, ObjectTrack, Scene

MIN_SCENE_S = 4
STEP_S = 0.05
# The director acts midway between two frames of a 2-fps stream, since a change exactly at a frame is ambiguous.
ACTION_STEPS, ACTION_PHASE = 10, 5
QUIET_END_S = 2.0  # no events this close to a clip's end, where their words would be cut off


@dataclass(frozen=True)
class WorldOptions:
    """Settings for how busy a scene is."""

    max_objects: int = field(default=4, metadata={"help": "Objects alive at once."})
    max_movers: int = field(default=2, metadata={"help": "Objects moving at once."})
    speed: tuple[float, float] = field(
        default=(0.16, 0.24), metadata={"help": "Slowest and fastest speed, field widths a second."}
    )
    gap_s: tuple[float, float] = field(
        default=(0.9, 0.9),
        metadata={"help": "Pause after an event: minimum, and mean of a random addition, in seconds."},
    )
    rest: float = field(default=0.25, metadata={"help": "Probability of a long silence while no object moves."})
    weights: tuple[tuple[str, float], ...] = field(
        default=(), metadata={"help": "Director's weights of actions by verb; default: 1."}
    )


@dataclass
class _Body:
    track: ObjectTrack
    x: float
    y: float
    vx: float = 0.0
    vy: float = 0.0
    exits: bool = False  # passes through the next wall instead of bouncing
    entering: bool = False

    @property
    def moving(self) -> bool:
        return self.vx != 0.0 or self.vy != 0.0


class _RejectedError(Exception):
    """The simulation reached a situation that is not narrated; the next attempt uses other random numbers."""


def simulate(seed: int, duration_s: float, options: WorldOptions | None = None) -> Scene:
    """Simulate one clip.

    Args:
        seed: determines every choice.
        duration_s: length of the clip in seconds.
        options: how busy the scene is.

    Raises:
        ValueError: if the clip is shorter than 4 seconds, or no valid scene was found.
    """
    if duration_s < MIN_SCENE_S:
        raise ValueError(f"duration_s is {duration_s}: expected {MIN_SCENE_S} or more")
    for attempt in range(500):
        try:
            return _Simulation(f"{seed}/{attempt}", duration_s, options or WorldOptions()).run()
        except _RejectedError:
            continue
    raise ValueError(f"no acceptable scene for seed {seed} with {options}; allow fewer objects or movers")


class _Simulation:
    def __init__(self, seed: str, duration_s: float, options: WorldOptions):
        self.random = random.Random(seed)
        self.options = options
        self.duration_s = duration_s
        self.now_s = 0.0
        self.bodies: list[_Body] = []
        self.tracks: list[ObjectTrack] = []
        self.marks: list[Mark] = []
        self.events: list[Event] = []
        self.next_action_s = self._gap_s()

    def run(self) -> Scene:
        for _ in range(self.random.randint(0, self.options.max_objects - 1)):
            self._add(*self._free_spot())
        for step in range(1, round(self.duration_s / STEP_S)):
            self.now_s = round(step * STEP_S, 4)
            self._advance()
            on_time = step % ACTION_STEPS == ACTION_PHASE and self.now_s >= self.next_action_s
            if on_time and self._calm():
                self._act()
        return Scene(self.duration_s, self.tracks, self.marks, self.events)

    # -- physics

    def _advance(self) -> None:
        for body in list(self.bodies):
            if body.moving:
                body.x += body.vx * STEP_S
                body.y += body.vy * STEP_S
                self._touch_walls(body)
                self._touch_others(body)

    def _touch_walls(self, body: _Body) -> None:
        inside = RADIUS <= body.x <= 1 - RADIUS and RADIUS <= body.y <= 1 - RADIUS
        if body.entering:
            if inside:
                body.entering = False
                self._emit("enters", body)
            return
        if inside:
            return
        if body.exits:
            if not (-RADIUS < body.x < 1 + RADIUS and -RADIUS < body.y < 1 + RADIUS):
                self._emit("leaves", body)
                self._remove(body)
            return
        hit_x = not RADIUS <= body.x <= 1 - RADIUS
        body.x = min(max(body.x, RADIUS), 1 - RADIUS)
        body.y = min(max(body.y, RADIUS), 1 - RADIUS)
        vx, vy = (-body.vx, body.vy) if hit_x else (body.vx, -body.vy)
        self._emit("bounces", body)
        self._steer(body, vx, vy)

    def _touch_others(self, body: _Body) -> None:
        for other in self.bodies:
            gap = math.hypot(body.x - other.x, body.y - other.y)
            if other is body or gap >= 2 * RADIUS:
                continue
            if other.moving or body.entering or (body.exits and not 0 < body.x < 1):
                raise _RejectedError
            towards = (other.x - body.x) * body.vx + (other.y - body.y) * body.vy
            if towards <= 0:
                continue
            self._emit("hits", body, other.track.shape)
            self._mark(body, "hit")
            self._steer(body, -body.vx, -body.vy)

    def _steer(self, body: _Body, vx: float, vy: float) -> None:
        body.vx, body.vy = vx, vy
        body.exits = self.random.random() < 0.3
        body.track.pieces.append((self.now_s, body.x, body.y, vx, vy))

    def _emit(self, verb: str, body: _Body, detail: str = "") -> None:
        if self.events and self.now_s - self.events[-1].time_s < 0.8:
            raise _RejectedError
        if self.now_s > self.duration_s - QUIET_END_S:
            raise _RejectedError
        colour = body.track.colours[-1][1]
        self.events.append(Event(self.now_s, verb, colour, body.track.shape, detail))
        self.next_action_s = self.now_s + self._gap_s()

    def _mark(self, body: _Body, kind: str) -> None:
        index = next(i for i, track in enumerate(self.tracks) if track is body.track)
        self.marks.append(Mark(self.now_s, index, kind))

    def _gap_s(self) -> float:
        is_still = not any(body.moving for body in self.bodies)
        if is_still and self.random.random() < self.options.rest:
            return self.random.uniform(5.5, 7.5)
        shortest_s, added_s = self.options.gap_s
        return shortest_s + min(self.random.expovariate(1 / added_s), 3.0)

    # -- the director

    def _calm(self) -> bool:
        """Return whether no contact is near, so that an action now does not crowd the narrator."""
        if self.now_s > self.duration_s - QUIET_END_S:
            return False
        return all(self._contact_s(b, b.vx, b.vy) > 0.9 for b in self.bodies if b.moving)

    def _contact_s(self, body: _Body, vx: float, vy: float) -> float:
        """Return the seconds until a body with this velocity causes an event; 0 while it crosses an edge."""
        times = []
        for position, velocity in ((body.x, vx), (body.y, vy)):
            if not RADIUS <= position <= 1 - RADIUS:
                return 0.0
            if velocity:
                wall = 1 - RADIUS if velocity > 0 else RADIUS
                times.append((wall - position) / velocity + (2 * RADIUS / abs(velocity)) * body.exits)
        for other in self.bodies:
            if other is not body:
                times.append(_approach_s(body.x - other.x, body.y - other.y, vx, vy))
        return min(times, default=math.inf)

    def _act(self) -> None:
        movers = [b for b in self.bodies if b.moving and not b.entering]
        still = [b for b in self.bodies if not b.moving]
        room = len(self.bodies) < self.options.max_objects
        free = len(movers) < self.options.max_movers
        inner = [b for b in movers if self._contact_s(b, b.vx, b.vy) > 0.9]
        choices: dict[str, tuple[float, list]] = {
            "appears": (0.8, [None] if room else []),
            "enters": (2.0, [None] if room and free else []),
            "moves": (1.0 if movers else 2.5, still if free else []),
            "stops": (1.8, inner),
            "turns": (3.5, inner),
            "disappears": (0.4 * len(self.bodies), still if len(self.bodies) > 1 else []),
            "changes": (0.6, [b for b in self.bodies if b not in movers or b in inner]),
        }
        weights = dict(self.options.weights)
        names = [name for name, (_, bodies) in choices.items() if bodies]
        if not names:
            return
        scores = [choices[name][0] * weights.get(name, 1.0) for name in names]
        name = self.random.choices(names, scores)[0]
        getattr(self, f"_do_{name}")(self.random.choice(choices[name][1]))

    def _do_appears(self, _body: None) -> None:
        body = self._add(*self._free_spot())
        self._emit("appears", body)
        self._mark(body, "appear")

    def _do_enters(self, _body: None) -> None:
        speed = self.random.uniform(*self.options.speed)
        lane = self.random.uniform(0.2, 0.8)
        x, y, vx, vy = self.random.choice(
            [
                (-RADIUS, lane, speed, 0.0),
                (1 + RADIUS, lane, -speed, 0.0),
                (lane, -RADIUS, 0.0, speed),
                (lane, 1 + RADIUS, 0.0, -speed),
            ]
        )
        way_s = (0.6 + RADIUS) / speed
        for other in self.bodies:
            if _approach_s(x - other.x, y - other.y, vx - other.vx, vy - other.vy) < way_s:
                return
        body = self._add(x, y)
        body.entering = True
        self._steer(body, vx, vy)
        body.exits = False

    def _do_moves(self, body: _Body) -> None:
        speed = self.random.uniform(*self.options.speed)
        targets = [b for b in self.bodies if b is not body and not b.moving]
        if targets and self.random.random() < 0.6 * dict(self.options.weights).get("hits", 1.0):
            target = self.random.choice(targets)
            angle = math.atan2(target.y - body.y, target.x - body.x)
        else:
            angle = self._axis_angle()
        vx, vy = speed * math.cos(angle), speed * math.sin(angle)
        if self._contact_s(body, vx, vy) > 1.0:
            self._emit("moves", body)
            self._steer(body, vx, vy)

    def _do_stops(self, body: _Body) -> None:
        self._emit("stops", body)
        self._steer(body, 0.0, 0.0)
        body.exits = False

    def _do_turns(self, body: _Body) -> None:
        side = self.random.choice((-1, 1))
        angle = math.atan2(body.vy, body.vx) + side * self.random.uniform(1.2, 1.9)
        speed = math.hypot(body.vx, body.vy)
        vx, vy = speed * math.cos(angle), speed * math.sin(angle)
        if self._contact_s(body, vx, vy) > 1.0:
            self._emit("turns", body)
            self._mark(body, "turn")
            self._steer(body, vx, vy)

    def _do_disappears(self, body: _Body) -> None:
        self._emit("disappears", body)
        self._mark(body, "gone")
        self._remove(body)

    def _do_changes(self, body: _Body) -> None:
        taken = {b.track.colours[-1][1] for b in self.bodies if b.track.shape == body.track.shape}
        free = [name for name in COLOURS if name not in taken]
        if free:
            body.track.colours.append((self.now_s, self.random.choice(free)))
            self._emit("changes", body)
            self._mark(body, "change")

    # -- objects

    def _axis_angle(self) -> float:
        return self.random.randrange(4) * math.pi / 2 + self.random.uniform(-0.2, 0.2)

    def _free_spot(self) -> tuple[float, float]:
        low, high = RADIUS + 0.03, 1 - RADIUS - 0.03
        for _ in range(50):
            x, y = self.random.uniform(low, high), self.random.uniform(low, high)
            ways = (
                math.hypot(x - b.x, y - b.y) > 2 * RADIUS + 0.05 and _approach_s(b.x - x, b.y - y, b.vx, b.vy) > 1.5
                for b in self.bodies
            )
            if all(ways):
                return x, y
        raise _RejectedError

    def _add(self, x: float, y: float) -> _Body:
        taken = {(b.track.shape, b.track.colours[-1][1]) for b in self.bodies}
        pairs = [(s, c) for s in SHAPES for c in COLOURS if (s, c) not in taken]
        shape, colour = self.random.choice(pairs)
        track = ObjectTrack(shape, self.now_s, pieces=[(self.now_s, x, y, 0.0, 0.0)])
        track.colours.append((self.now_s, colour))
        body = _Body(track, x, y)
        self.bodies.append(body)
        self.tracks.append(track)
        return body

    def _remove(self, body: _Body) -> None:
        body.track.gone_s = self.now_s
        self.bodies.remove(body)


def _approach_s(dx: float, dy: float, vx: float, vy: float) -> float:
    """Return the seconds until two discs at offset (dx, dy) with relative velocity (vx, vy) touch, or infinity."""
    a = vx * vx + vy * vy
    b = dx * vx + dy * vy
    c = dx * dx + dy * dy - (2 * RADIUS) ** 2
    inside = b * b - a * c
    if a == 0 or b >= 0 or inside < 0:
        return math.inf
    return max((-b - math.sqrt(inside)) / a, 0.0)
