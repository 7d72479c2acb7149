"""Scenes of textured axis-aligned boxes.

A scene is a set of cells: boxes that are seen from inside, with boxes standing in them. Cells open into one another through
doors, rectangles of a side where two cells touch. A ray is followed from cell to cell, so that it meets the few boxes of the
cells that it crosses and never those of the whole scene: a house costs little more than its room. One cell without doors is a room.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Door(NamedTuple):
    """An opening in side `side` (0 to 5: -x +x -y +y -z +z) of a cell into cell `to`. hole: its ends (u0, u1) along the side and its
    upper end v0, in [0, 1] of the side; it reaches the floor. None: the whole side is open."""

    side: int
    to: int
    hole: tuple[float, float, float] | None = None


class Box(NamedTuple):
    """A solid box in metres. textures: of its sides across x, y and z."""

    lo: tuple[float, float, float]
    hi: tuple[float, float, float]
    textures: tuple[int, int, int]


class Cell(NamedTuple):
    """A box that is seen from inside. textures: the first of the six of its sides, which follow one another."""

    lo: tuple[float, float, float]
    hi: tuple[float, float, float]
    textures: int
    boxes: tuple[Box, ...] = ()
    doors: tuple[Door, ...] = ()

    @property
    def passage(self) -> bool:
        """Whether whole sides are open, so that most rays that come in leave again."""
        return bool(self.doors) and all(d.hole is None for d in self.doors)

    @property
    def parts(self) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
        """Corners of the boxes, then of the doors."""
        return [(box.lo, box.hi) for box in self.boxes] + [self._ends(door) for door in self.doors]

    def _ends(self, door: Door) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        axis, forward = divmod(door.side, 2)
        lo, hi = list(self.lo), list(self.hi)
        lo[axis] = hi[axis] = (self.lo, self.hi)[forward][axis]
        if door.hole is not None:
            along = 2 - axis
            start, size = self.lo[along], self.hi[along] - self.lo[along]
            lo[along], hi[along] = start + door.hole[0] * size, start + door.hole[1] * size
            lo[1] = self.lo[1] + door.hole[2] * (self.hi[1] - self.lo[1])
        return (lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])


@dataclass(frozen=True)
class Scene:
    """cells: which tile a part of space. textures: square images in [0, 1]."""

    cells: tuple[Cell, ...]
    textures: Float[Tensor, "t r r 3"]

    def to(self, device: torch.device | str) -> "Scene":
        return Scene(self.cells, self.textures.to(device))

    def locate(self, points: Float[Tensor, "n 3"]) -> Int[Tensor, "n"]:
        """The cell that each point lies in. Raises ValueError for a point in none."""
        if len(self.cells) == 1:
            return torch.zeros(len(points), dtype=torch.long, device=points.device)
        lo, hi = (torch.tensor([getattr(c, end) for c in self.cells], dtype=points.dtype, device=points.device) for end in ("lo", "hi"))
        inside = ((points[:, None] >= lo) & (points[:, None] <= hi)).all(-1)
        if not inside.any(-1).all():
            point = points[~inside.any(-1)][0].tolist()
            raise ValueError(f"no cell of the scene holds the point ({', '.join(f'{x:.3f}' for x in point)}); rays start inside a room or a doorway")
        return inside.int().argmax(-1)
