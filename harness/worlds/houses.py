"""Houses: 6 to 12 rooms with doorways, furniture and look-alikes, every one a pure function of its seed."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harness.worlds import paint
from harness.worlds.plans import LINTEL, Doorway, Place, Plan, make_plan
from harness.worlds.rooms import EYE
from harness.worlds.scene import Box, Cell, Door, Scene


@dataclass(frozen=True)
class House:
    """A plan and its scene: the rooms' cells in the plan's order, then the doorways'."""

    seed: int
    plan: Plan
    scene: Scene

    def free(self, xz: Float[Tensor, "n 2"]) -> Bool[Tensor, "n"]:
        """Whether a camera may stand at floor positions, see `Plan.free`."""
        return torch.tensor([self.plan.free(x, z) for x, z in xz.tolist()])


def plan_house(seed: int, rooms: tuple[int, ...] = (6, 12), twins: float = 0.25, loops: float = 0.75) -> Plan:
    """The floor plan of a seed's house (1 ms), see `plans.make_plan` for the settings."""
    return make_plan(np.random.default_rng([seed, 1]), rooms, twins, loops)


def make_house(seed: int, rooms: tuple[int, ...] = (6, 12), twins: float = 0.25, loops: float = 0.75, coat: int | None = None) -> House:
    """The house of a seed, with its surfaces (30 ms): what 10 frames of it take to render at 64 x 64 pixels. coat: the seed of its surfaces, where it is
    to be painted anew: the same walls and furniture, and as many textures in the same order."""
    coat = seed if coat is None else coat
    g, plan = np.random.default_rng([coat, 5]), plan_house(seed, rooms, twins, loops)
    hues = (g.random() + 0.618 * np.arange(len(plan.rooms))) % 1
    palette = [paint.colours(np.random.default_rng([coat, 2, r]), hues[r]) for r in range(len(plan.rooms))]
    images: list[paint.Image] = []
    cells = []
    for r, room in enumerate(plan.rooms):
        shared, own = np.random.default_rng([coat, 3, room.looks]), np.random.default_rng([coat, 4, r])
        cells.append(_room(shared, own, plan, r, palette[room.looks], images))
    wood = palette[0].wood
    sill = len(images)
    images += [np.ones((paint.TEXELS, paint.TEXELS, 3)) * wood * shade for shade in (0.8, 0.8, 0.6, 0.6, 0.7, 0.7)]
    cells += [_doorway(d, sill) for d in plan.doors]
    textures = torch.from_numpy(np.stack(images, dtype=np.float32, casting="same_kind")).clamp_(0, 1)
    return House(seed, plan, Scene(tuple(cells), textures))


def _room(shared: np.random.Generator, own: np.random.Generator, plan: Plan, r: int, c: paint.Colours, images: list[paint.Image]) -> Cell:
    """The cell of room `r`; its surfaces are added to `images`. shared: chance that rooms which look alike have in common; own: pictures and furniture."""
    room = plan.rooms[r]
    lo, hi = (room.x0, EYE - room.height, room.z0), (room.x1, EYE, room.z1)
    doors = [_open(plan.doors[i], r, room, len(plan.rooms) + i) for i in plan.at[r]]
    first, around = len(images), _around(plan, room)
    for side in range(6):
        along = hi[0] - lo[0], hi[2] - lo[2]
        if side in (2, 3):
            images.append(paint.worn(shared, (paint.ceiling if side == 2 else paint.floor)(c, along)))
            continue
        size = (along[1 if side < 2 else 0], room.height)
        image = paint.worn(shared, paint.wall(c, side if side < 2 else side - 2, size))
        holes = [d.hole for d in doors if d.side == side and d.hole]
        paint.hang(own, image, size, holes, side in around)
        for hole in holes:
            paint.opening(image, hole, 0.75 * c.wood)
        images.append(image)
    boxes = []
    for p in room.pieces:
        at = len(images)
        images += paint.piece(own, c, p.kind)
        boxes.append(Box((p.x0, EYE - p.height, p.z0), (p.x1, EYE, p.z1), (at, at + 1, at + 2)))
    return Cell(lo, hi, first, tuple(boxes), tuple(doors))


def _around(plan: Plan, room: Place) -> set[int]:
    """Sides of a room that are the house's own."""
    ends = (min(p.x0 for p in plan.rooms), max(p.x1 for p in plan.rooms), min(p.z0 for p in plan.rooms), max(p.z1 for p in plan.rooms))
    sides = zip((0, 1, 4, 5), ends, (room.x0, room.x1, room.z0, room.z1), strict=True)
    return {side for side, end, mine in sides if abs(end - mine) < 0.5}


def _open(door: Doorway, r: int, room: Place, cell: int) -> Door:
    """The hole that a doorway is in a wall of room `r`."""
    low, high = (room.z0, room.z1) if door.axis == 0 else (room.x0, room.x1)
    side = 2 * door.axis + (r == door.rooms[0])
    ends = [(door.middle + sign * door.width / 2 - low) / (high - low) for sign in (-1, 1)]
    return Door(side, cell, (ends[0], ends[1], 1 - LINTEL / room.height))


def _doorway(door: Doorway, textures: int) -> Cell:
    """The cell in the wall, open to both sides."""
    half, along = door.width / 2, 2 - door.axis
    lo, hi = [0.0, EYE - LINTEL, 0.0], [0.0, EYE, 0.0]
    lo[door.axis], hi[door.axis] = door.at
    lo[along], hi[along] = door.middle - half, door.middle + half
    doors = (Door(2 * door.axis, door.rooms[0]), Door(2 * door.axis + 1, door.rooms[1]))
    return Cell((lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2]), textures, (), doors)
