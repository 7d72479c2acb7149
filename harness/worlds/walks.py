"""Walks on a lattice, frame by frame: keys and turns, and the exact poses that they lead to.

Places are whole steps apart, legs run along x and z, headings are whole turns of a frame. A place that is reached again is
therefore reached exactly, whatever way leads there.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harness.worlds.poses import ACTIONS, rotation

YAW = {(0, 1): 90, (0, -1): 270, (1, 1): 0, (1, -1): 180}  # degrees that look along an axis (0: x, 1: z) in a direction
KEYS = {0: "W", 90: "D", 180: "S", 270: "A"}  # by the degrees from the heading to where a key leads


class Leg(NamedTuple):
    """`count` steps along axis 0 (x) or 1 (z), the other way if negative."""

    axis: int
    count: int

    @property
    def yaw(self) -> int:
        return YAW[self.axis, 1 if self.count > 0 else -1]


class Row(NamedTuple):
    """A frame: the key that was pressed, the turns that were taken (right positive), and the place and heading that this led to."""

    key: str | None
    turned: int
    x: int
    z: int
    heading: int


@dataclass
class Walk:
    """A walk as it is made. heading: in turns of `degrees`, from z to the right."""

    degrees: float
    x: int
    z: int
    heading: int
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.around = round(360 / self.degrees)
        if not self.rows:
            self._add(None, 0)

    def copy(self) -> "Walk":
        return Walk(self.degrees, self.x, self.z, self.heading, list(self.rows))

    def _add(self, key: str | None, turned: int) -> None:
        self.rows.append(Row(key, turned, self.x, self.z, self.heading))

    def turn(self, frames: int) -> None:
        """Turn for `frames` frames: right, or left if negative."""
        one = 1 if frames > 0 else -1
        for _ in range(abs(frames)):
            self.heading = (self.heading + one) % self.around
            self._add(None, one)

    def face(self, leg: Leg, long: bool, side: int) -> None:
        """Turn to where a leg leads, the short way or the long way: all around, if it leads ahead. side: right (1) or left (-1), if both are equal."""
        right = (round(leg.yaw / self.degrees) - self.heading) % self.around
        left = right - self.around
        if right == 0:
            self.turn(side * self.around if long else 0)
        elif right == -left:
            self.turn(right if side > 0 else left)
        else:
            self.turn((max if long else min)(right, left, key=abs))

    def go(self, leg: Leg) -> None:
        """Walk a leg without turning, by the key that leads along it."""
        key, one = KEYS[(leg.yaw - round(self.heading * self.degrees)) % 360], 1 if leg.count > 0 else -1
        for _ in range(abs(leg.count)):
            self.x, self.z = self.x + one * (leg.axis == 0), self.z + one * (leg.axis == 1)
            self._add(key, 0)

    def along(self, legs: list[Leg], side: int) -> None:
        """Walk legs and look where they lead. A leg that is shorter than the turn towards it is walked sideways or backwards."""
        quarter = self.around // 4
        for leg in legs:
            if abs(leg.count) >= quarter or self.heading % quarter:
                self.face(leg, False, side)
            self.go(leg)

    def poses(self, frames: int, step: float) -> tuple[Float[Tensor, "f 6"], Float[Tensor, "f 4 4"]]:
        """Actions (columns `ACTIONS`) and camera-to-world poses of the first `frames` frames, with `step` metres a step."""
        rows = self.rows[:frames]
        actions = torch.zeros(len(rows), len(ACTIONS))
        for action, row in zip(actions.numpy(), rows, strict=True):
            action[ACTIONS.index("yaw")] = row.turned * self.degrees
            if row.key:
                action[ACTIONS.index(row.key)] = 1
        x, z, heading = torch.tensor([row[2:] for row in rows], dtype=torch.float64).T
        c2w = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
        c2w[:, :3, :3] = rotation(heading * self.degrees, torch.zeros_like(heading))
        c2w[:, 0, 3], c2w[:, 2, 3] = x * step, z * step
        return actions, c2w.float()


def joined(legs: list[Leg]) -> list[Leg]:
    """Legs that follow one another on one line as one; what leads nowhere is left out."""
    out: list[Leg] = []
    for leg in legs:
        if out and out[-1].axis == leg.axis:
            leg = Leg(leg.axis, out.pop().count + leg.count)
        if leg.count:
            out.append(leg)
    return out


def cut(legs: list[Leg], steps: int) -> list[Leg]:
    """The first `steps` steps."""
    part = []
    for leg in legs:
        count = min(abs(leg.count), steps)
        part += [Leg(leg.axis, count if leg.count > 0 else -count)] if count else []
        steps -= count
    return part


def length(legs: list[Leg]) -> int:
    return sum(abs(leg.count) for leg in legs)
