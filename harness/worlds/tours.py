"""Tours of a house as actions: walks from room to room, with looks around, that come back to a room after a while.

Everything lies on a lattice: places are whole steps apart, legs run along walls, headings are whole turns of a frame. A place that
is reached again is therefore reached exactly, whatever way leads there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.worlds.plans import Plan
from harness.worlds.poses import ACTIONS, rotation

ROUTES = ("any", "far", "loop", "twins")
YAW = {(0, 1): 90, (0, -1): 270, (1, 1): 0, (1, -1): 180}  # degrees that look along an axis (0: x, 1: z) and sign; 0 looks along z, right turns are positive
LONGEST_STEP = 0.35  # metres: what furniture and doorways leave for a lattice that does not fit
LOOK = 0.2  # share of a tour for the first look, and again for the last


class Leg(NamedTuple):
    """`count` steps along axis 0 (x) or 1 (z), backwards if negative."""

    axis: int
    count: int


class Circuit(NamedTuple):
    """A way from a room back to itself: the rooms that it passes and the doorways between them. turns: it goes back the way it came."""

    rooms: tuple[int, ...]
    doors: tuple[int, ...]
    turns: bool


@dataclass(frozen=True)
class Tour:
    """Actions (columns `ACTIONS`) and the exact poses that they lead to, in the house. rooms: circuits that were walked."""

    actions: Float[Tensor, "f 6"]
    c2w: Float[Tensor, "f 4 4"]
    circuits: tuple[Circuit, ...]


@dataclass
class Walk:
    """A walk as it is made: frame by frame the lattice place and the heading in turns of a frame."""

    degrees: float
    x: int
    z: int
    heading: int
    rows: list[tuple[int, float, int, int, int]] = field(default_factory=list)  # key (-1: none), degrees, and where that leads

    def __post_init__(self) -> None:
        self.around = round(360 / self.degrees)
        self._add(-1, 0.0)

    def copy(self) -> "Walk":
        other = Walk(self.degrees, self.x, self.z, self.heading)
        other.rows = list(self.rows)
        return other

    def _add(self, key: int, turned: float) -> None:
        self.rows.append((key, turned, self.x, self.z, self.heading))

    def turn(self, frames: int) -> None:
        """Right if positive."""
        for _ in range(abs(frames)):
            self.heading = (self.heading + (1 if frames > 0 else -1)) % self.around
            self._add(-1, self.degrees if frames > 0 else -self.degrees)

    def face(self, heading: int, long: bool, side: int) -> None:
        """Turn to a heading the short or the long way. side: 1 or -1, which way if both are equal."""
        right = (heading - self.heading) % self.around
        left = right - self.around
        if right == 0:
            self.turn(side * self.around if long else 0)
        elif right == -left:
            self.turn(right if side > 0 else left)
        else:
            self.turn(max(right, left, key=abs) if long else min(right, left, key=abs))

    def go(self, leg: Leg) -> None:
        """Walk a leg with the heading that it has: by the key that leads along it."""
        sign = 1 if leg.count > 0 else -1
        key = {0: 0, 180: 1, 270: 2, 90: 3}[(YAW[leg.axis, sign] - round(self.heading * self.degrees)) % 360]
        for _ in range(abs(leg.count)):
            self.x, self.z = self.x + sign * (leg.axis == 0), self.z + sign * (leg.axis == 1)
            self._add(key, 0.0)

    def along(self, legs: list[Leg], side: int) -> None:
        """Walk legs, looking where they lead; what is shorter than a turn towards it takes is walked sideways or backwards."""
        for leg in legs:
            ahead = self.toward(leg)
            if abs(leg.count) >= self.around // 4 or self.heading % (self.around // 4):
                self.face(ahead, False, side)
            self.go(leg)

    def toward(self, leg: Leg) -> int:
        return round(YAW[leg.axis, 1 if leg.count > 0 else -1] / self.degrees)


def tour(plan: Plan, seed: int, frames: int, step: float, degrees: float, route: str = "any", returns: int = 1, gap: int = 0) -> Tour:
    """The tour of a seed: `frames` frames that begin with a look around in a room and come back to it `returns` times.

    route: `far` comes back as late as the frames allow, `loop` by another door, `twins` after a visit to a room that looks alike;
    `any` takes what it finds. gap: frames between leaving the room and coming back to it, at least. step: metres, degrees: a turn
    of one frame. Raises ValueError for settings that no lattice has, and when no way in this house is as wanted.
    """
    check(step, degrees, route, returns)
    g = np.random.default_rng([seed, 4])
    found: list[tuple[float, Walk, list[Circuit]]] = []
    for home in g.permutation(len(plan.rooms)).tolist():
        made = _from(plan, g, home, frames, step, degrees, route, returns, gap)
        if made is not None:
            found.append(made)
        if len(found) >= 3:
            break
    if not found:
        raise ValueError(
            f"house {seed}: no tour of {frames} frames with route={route}, returns={returns} and a gap of {gap} frames; use more chunks, fewer returns, a smaller gap or route=any"
        )
    _, walk, circuits = min(found, key=lambda f: f[0])
    return Tour(*_poses(walk, frames, step), tuple(circuits))


def check(step: float, degrees: float, route: str, returns: int) -> None:
    """Raises ValueError for settings that no tour has."""
    if route not in ROUTES:
        raise ValueError(f"route {route!r}; use one of {', '.join(ROUTES)}")
    if returns < 1:
        raise ValueError(f"returns={returns}; a tour comes back at least once")
    if not 0 < step <= LONGEST_STEP:
        raise ValueError(f"step={step} metres a frame; tours need one above 0 and at most {LONGEST_STEP}, which a doorway allows")
    if degrees <= 0 or abs(90 / degrees - round(90 / degrees)) > 1e-6:
        raise ValueError(f"degrees={degrees} a frame; tours turn by right angles, so use a divisor of 90, such as 5, 7.5, 9, 10 or 15")


def _from(
    plan: Plan, g: np.random.Generator, home: int, frames: int, step: float, degrees: float, route: str, returns: int, gap: int
) -> tuple[float, Walk, list[Circuit]] | None:
    """A tour from one room: how many frames it leaves unused, the walk and its circuits; None if there is none."""
    ways = [c for c in circuits(plan, home) if _suits(plan, c, route)]
    if not ways:
        return None
    around = round(360 / degrees)
    look = max(1, min(around * 3 // 4, int(LOOK * frames)))
    walk, chosen = None, []
    for number in range(returns):
        used = len(walk.rows) if walk else 1 + look
        budget = (frames - look - used) // (returns - number) + used
        best: tuple[int, Walk, Circuit] | None = None
        for i in g.permutation(len(ways)).tolist():
            for trial in _walks(plan, g, ways[i], walk, look, budget, step, degrees):
                if gap <= len(trial.rows) - used and (best is None or len(trial.rows) > len(best[1].rows)):
                    best = (i, trial, ways[i])
            if best and len(best[1].rows) > budget - around // 2:
                break
        if best is None:
            return None
        walk = best[1]
        chosen.append(best[2])
    assert walk is not None
    left = frames - len(walk.rows)
    seen = {row[4] for row in walk.rows if row[2:4] == walk.rows[0][2:4]}
    score = [sum((walk.heading + side * (i + 1)) % around in seen for i in range(min(left, look))) for side in (1, -1)]
    walk.turn(left if score[0] >= score[1] else -left)
    return left - look, walk, chosen


def _suits(plan: Plan, c: Circuit, route: str) -> bool:
    if route == "loop":
        return not c.turns
    if route == "twins":
        home = plan.rooms[c.rooms[0]].looks
        return any(plan.rooms[r].looks == home for r in c.rooms[1:] if r != c.rooms[0])
    return True


def circuits(plan: Plan, home: int, longest: int = 9) -> list[Circuit]:
    """Ways from a room back to it that pass no other room twice, and ways to any room, to go back the way they came."""
    found: list[Circuit] = []

    def extend(rooms: tuple[int, ...], doors: tuple[int, ...]) -> None:
        for i in plan.at[rooms[-1]]:
            onward = plan.doors[i].other(rooms[-1])
            if onward == home and len(rooms) > 2:
                found.append(Circuit((*rooms, home), (*doors, i), False))
            elif onward not in rooms:
                found.append(Circuit((*rooms, onward), (*doors, i), True))
                if len(rooms) < longest:
                    extend((*rooms, onward), (*doors, i))

    extend((home,), ())
    return found


def _walks(plan: Plan, g: np.random.Generator, c: Circuit, walk: Walk | None, look: int, budget: int, step: float, degrees: float) -> Iterator[Walk]:
    """Walks along a circuit that are back within `budget` frames: with as many looks around on the way as fit."""
    side = 1 if g.random() < 0.5 else -1
    legs = _legs(plan, c.rooms, c.doors, step)
    whole = _joined([leg for part in legs for leg in part])
    if sum(abs(leg.count) for leg in whole) * (2 if c.turns else 1) > budget:
        if not c.turns:
            return
    start = _begin(plan, c.rooms[0], walk, whole[0], look, side, step, degrees)
    if c.turns:
        yield from _there_and_back(start, whole, side, budget, sum(abs(leg.count) for leg in _joined(legs[0])))
        return
    stops: list[int] = []
    for stop in [-1, *g.permutation(np.arange(1, len(c.rooms) - 1)).tolist()]:
        trial = start.copy()
        pieces = sorted([*stops, *([stop] if stop > 0 else [])])
        for first, last in zip([0, *pieces], [*pieces, len(legs)], strict=True):
            part = _joined([leg for more in legs[first:last] for leg in more])
            if first and part:
                trial.face(trial.toward(part[0]), True, side)
            trial.along(part, side)
        if len(trial.rows) <= budget:
            yield trial
            stops = pieces


def _begin(plan: Plan, home: int, walk: Walk | None, leg: Leg, look: int, side: int, step: float, degrees: float) -> Walk:
    """At home, after a look around that ends in the direction of the first leg."""
    if walk is not None:
        begun = walk.copy()
        begun.face(begun.toward(leg), True, side)
        return begun
    x, z = (round(h / step) for h in plan.rooms[home].hub)
    begun = Walk(degrees, x, z, 0)
    begun = Walk(degrees, x, z, (begun.toward(leg) - side * look) % begun.around)
    begun.turn(side * look)
    return begun


def _there_and_back(start: Walk, legs: list[Leg], side: int, budget: int, least: int) -> Iterator[Walk]:
    """As far along the legs as the budget allows, but at least `least` steps if it allows that, and back."""
    total = sum(abs(leg.count) for leg in legs)
    low, high = 1, total
    best = None
    while low <= high:
        steps = (low + high) // 2
        trial = start.copy()
        part = _first(legs, steps)
        trial.along(part, side)
        back = [Leg(leg.axis, -leg.count) for leg in reversed(part)]
        trial.face(trial.toward(back[0]), False, side)
        trial.along(back, side)
        if len(trial.rows) <= budget:
            best, low = trial, steps + 1
        else:
            high = steps - 1
    if best is not None:
        yield best


def _first(legs: list[Leg], steps: int) -> list[Leg]:
    part = []
    for leg in legs:
        count = min(abs(leg.count), steps)
        if count:
            part.append(Leg(leg.axis, count if leg.count > 0 else -count))
        steps -= count
    return part


def _legs(plan: Plan, rooms: tuple[int, ...], doors: tuple[int, ...], step: float) -> list[list[Leg]]:
    """Legs from hub to hub, through each doorway in turn."""
    out = []
    for a, b, i in zip(rooms[:-1], rooms[1:], doors, strict=True):
        door = plan.doors[i]
        line, across = round(door.middle / step), door.axis // 2
        here, there = ([round(h / step) for h in plan.rooms[r].hub] for r in (a, b))
        out.append([Leg(1 - across, line - here[1 - across]), Leg(across, there[across] - here[across]), Leg(1 - across, there[1 - across] - line)])
    return out


def _joined(legs: list[Leg]) -> list[Leg]:
    """Legs that follow one another on one line as one; what leads nowhere is left out."""
    out: list[Leg] = []
    for leg in legs:
        if out and out[-1].axis == leg.axis:
            leg = Leg(leg.axis, out.pop().count + leg.count)
        if leg.count:
            out.append(leg)
    return out


def _poses(walk: Walk, frames: int, step: float) -> tuple[Float[Tensor, "f 6"], Float[Tensor, "f 4 4"]]:
    rows = walk.rows[:frames]
    key, turned, x, z, heading = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    actions = torch.zeros(len(rows), len(ACTIONS))
    pressed = key >= 0
    actions[pressed, key[pressed].long()] = 1
    actions[:, ACTIONS.index("yaw")] = turned.float()
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    yaw = heading * walk.degrees
    c2w[:, :3, :3] = rotation(yaw, torch.zeros_like(yaw))
    c2w[:, 0, 3], c2w[:, 2, 3] = x * step, z * step
    return actions, c2w.float()
