"""Tours of a house as actions: walks from room to room, with looks around, that come back to a room after a while."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from harness.worlds.plans import Plan
from harness.worlds.walks import Leg, Walk, cut, joined, length

ROUTES = ("any", "far", "loop", "twins")
LONGEST_STEP = 0.35  # metres: what furniture and doorways leave for a lattice that does not fit
OUT = 0.7  # metres behind the doorway that a tour goes at least
LOOK = 0.2  # share of a tour for the first look around, and again for the last; at most three quarters of a turn


class Circuit(NamedTuple):
    """A way from a room back to it: the rooms that it passes and the doorways between them. turns: it turns at the last and goes back as it came."""

    rooms: tuple[int, ...]
    doors: tuple[int, ...]
    turns: bool


@dataclass(frozen=True)
class Wish:
    """What a tour should be like.

    frames: video frames. step, degrees: metres and turn of a frame. route: `far` is away as long as the frames allow, `loop` comes
    back by another door, `twins` after a visit to a room that looks alike, `any` takes what it finds. returns: how often it comes
    back. gap: frames from the end of a look around to being back at the same place, at least. Raises ValueError for what no house has.
    """

    frames: int
    step: float
    degrees: float
    route: str = "any"
    returns: int = 1
    gap: int = 0

    def __post_init__(self) -> None:
        if self.route not in ROUTES:
            raise ValueError(f"route={self.route!r}; use one of {', '.join(ROUTES)}")
        if self.returns < 1:
            raise ValueError(f"returns={self.returns}; a tour comes back at least once")
        if not 0 < self.step <= LONGEST_STEP:
            raise ValueError(f"step={self.step} metres a frame; use more than 0 and at most {LONGEST_STEP}, which doorways allow")
        if self.degrees <= 0 or abs(90 / self.degrees - round(90 / self.degrees)) > 1e-6:
            raise ValueError(f"degrees={self.degrees} a frame; tours turn by right angles: use a divisor of 90, such as 5, 7.5, 9, 10 or 15")
        if self.look < 1 or self.frames - 2 * self.look < (self.gap + 2) * self.returns:
            raise ValueError(
                f"a tour of {self.frames} frames looks around for 2 x {self.look} of them and has no time for {self.returns} returns "
                f"after {self.gap} frames; use more chunks, fewer returns or a smaller gap"
            )

    @property
    def look(self) -> int:
        """Frames of the first look and of the last."""
        return min(round(270 / self.degrees), int(LOOK * self.frames))


@dataclass(frozen=True)
class Tour:
    """Actions (columns `ACTIONS`), the poses in the house that they lead to, and the circuits that were walked."""

    actions: Float[Tensor, "f 6"]
    c2w: Float[Tensor, "f 4 4"]
    circuits: tuple[Circuit, ...]


def tour(plan: Plan, seed: int, frames: int, step: float, degrees: float, route: str = "any", returns: int = 1, gap: int = 0) -> Tour:
    """The tour of a seed through a house: it begins with a look around in a room, comes back there and looks again, see `Wish`.

    Raises ValueError when this house has no such tour.
    """
    wish = Wish(frames, step, degrees, route, returns, gap)
    g = np.random.default_rng([seed, 4])
    found: list[tuple[Walk, tuple[Circuit, ...]]] = []
    for home in g.permutation(len(plan.rooms)).tolist():
        found += _from(plan, g, home, wish)
        if len(found) == 3:
            break
    if not found:
        raise ValueError(f"house {seed} has no tour of {frames} frames with route={route}, returns={returns} and gap={gap}; use more chunks or another house")
    walk, walked = max(found, key=lambda f: len(f[0].rows))
    _look_again(walk, wish)
    return Tour(*walk.poses(frames, step), walked)


def circuits(plan: Plan, home: int, longest: int = 9) -> list[Circuit]:
    """Ways from a room back to it that pass no other room twice, and ways to any room, to go back as they came."""
    found: list[Circuit] = []

    def extend(rooms: tuple[int, ...], doors: tuple[int, ...]) -> None:
        here = rooms[len(doors)]
        for i in plan.at[here]:
            onward = plan.doors[i].other(here)
            if onward == home and len(rooms) > 2:
                found.append(Circuit((*rooms, home), (*doors, i), False))
            elif onward not in rooms:
                found.append(Circuit((*rooms, onward), (*doors, i), True))
                if len(rooms) < longest:
                    extend((*rooms, onward), (*doors, i))

    extend((home,), ())
    return found


def _suits(plan: Plan, c: Circuit, route: str) -> bool:
    home = plan.rooms[c.rooms[0]].looks
    return (route != "loop" or not c.turns) and (route != "twins" or any(plan.rooms[r].looks == home for r in c.rooms if r != c.rooms[0]))


def _from(plan: Plan, g: np.random.Generator, home: int, wish: Wish) -> list[tuple[Walk, tuple[Circuit, ...]]]:
    """A tour from one room, up to its last return, if there is one: each circuit takes an even share of the frames that are left."""
    ways = [c for c in circuits(plan, home) if _suits(plan, c, wish.route)]
    walk, chosen = None, []
    for number in range(wish.returns):
        used = len(walk.rows) if walk else 1 + wish.look
        budget = used + (wish.frames - wish.look - used) // (wish.returns - number)
        best: tuple[Walk, Circuit] | None = None
        rings_first = wish.route != "any" or g.random() < 0.7  # they fill the frames less well, but come back by another door
        for i in sorted(g.permutation(len(ways)).tolist(), key=lambda i: ways[i].turns == rings_first):
            for trial in _walks(plan, g, ways[i], walk, wish, budget):
                if len(trial.rows) - used >= wish.gap and (best is None or len(trial.rows) > len(best[0].rows)):
                    best = (trial, ways[i])
            if best and len(best[0].rows) - used > 0.75 * (budget - used):
                break
        if best is None:
            return []
        walk = best[0]
        chosen.append(best[1])
    return [(walk, tuple(chosen))] if walk else []


def _walks(plan: Plan, g: np.random.Generator, c: Circuit, before: Walk | None, wish: Wish, budget: int) -> Iterator[Walk]:
    """Walks along a circuit that are back within `budget` frames: a way there and back as far as it may, a ring with as many looks on the way as fit."""
    side = 1 if g.random() < 0.5 else -1
    parts = _legs(plan, c, wish.step)
    legs = joined([leg for part in parts for leg in part])
    if before is None:
        start = _begin(plan.rooms[c.rooms[0]].hub, legs[0], side, wish)
    else:
        start = before.copy()
        start.face(legs[0], True, side)
    if c.turns:
        yield from _there_and_back(start, legs, side, budget, _least(plan, c, parts, wish))
    elif len(start.rows) + length(legs) <= budget:
        stops: list[int] = []
        for stop in (0, *g.permutation(np.arange(1, len(parts))).tolist()):
            trial, tried = start.copy(), sorted({0, *stops, stop})
            for first, last in zip(tried, [*tried[1:], len(parts)], strict=True):
                part = joined([leg for more in parts[first:last] for leg in more])
                if first and part:
                    trial.face(part[0], True, side)
                trial.along(part, side)
            if len(trial.rows) <= budget:
                stops = tried
                yield trial


def _begin(hub: tuple[float, float], leg: Leg, side: int, wish: Wish) -> Walk:
    """The first look around, which ends in the direction of the first leg."""
    x, z = (round(h / wish.step) for h in hub)
    end = round(leg.yaw / wish.degrees)
    walk = Walk(wish.degrees, x, z, (end - side * wish.look) % round(360 / wish.degrees))
    walk.turn(side * wish.look)
    return walk


def _least(plan: Plan, c: Circuit, parts: list[list[Leg]], wish: Wish) -> int:
    """Steps of a way that turns, at least: out of the room by `OUT` metres, and to the room that looks alike, if that is wished."""
    if wish.route == "twins":
        twin = next(k for k, r in enumerate(c.rooms) if k and plan.rooms[r].looks == plan.rooms[c.rooms[0]].looks)
        return length(joined([leg for part in parts[:twin] for leg in part]))
    door, hub = plan.doors[c.doors[0]], plan.rooms[c.rooms[0]].hub
    behind = door.at[1] if door.rooms[0] == c.rooms[0] else door.at[0]
    return abs(parts[0][0].count) + math.ceil((abs(behind - hub[door.axis // 2]) + OUT) / wish.step)


def _there_and_back(start: Walk, legs: list[Leg], side: int, budget: int, least: int) -> Iterator[Walk]:
    """As far as the budget allows, if that is `least` steps or more."""
    low, high = max(1, least), length(legs)
    best = None
    while low <= high:
        steps = (low + high) // 2
        trial, there = start.copy(), cut(legs, steps)
        back = [Leg(leg.axis, -leg.count) for leg in reversed(there)]
        trial.along(there, side)
        trial.face(back[0], False, side)
        trial.along(back, side)
        if len(trial.rows) <= budget:
            best, low = trial, steps + 1
        else:
            high = steps - 1
    if best is not None:
        yield best


def _legs(plan: Plan, c: Circuit, step: float) -> list[list[Leg]]:
    """Legs from hub to hub of a circuit's rooms, through each doorway in turn."""
    out = []
    for a, b, i in zip(c.rooms[:-1], c.rooms[1:], c.doors, strict=True):
        across = plan.doors[i].axis // 2
        along, line = 1 - across, round(plan.doors[i].middle / step)
        here, there = ([round(h / step) for h in plan.rooms[r].hub] for r in (a, b))
        out.append([Leg(along, line - here[along]), Leg(across, there[across] - here[across]), Leg(along, there[along] - line)])
    return out


def _look_again(walk: Walk, wish: Wish) -> None:
    """Turn until the frames are used up, to the side where more of the first look's views come soon."""
    left, home = wish.frames - len(walk.rows), walk.rows[0]
    seen = {row.heading for row in walk.rows if (row.x, row.z) == (home.x, home.z)}
    known = [sum((walk.heading + side * (i + 1)) % walk.around in seen for i in range(min(left, wish.look))) for side in (1, -1)]
    walk.turn(left if known[0] >= known[1] else -left)
