"""Rays through a scene, to the first surface that each of them meets: exact, from cell to cell."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.worlds.scene import Box, Cell, Door, Scene

BLOCK = 1 << 16  # rays that are followed together: 256 kB a tensor, what a core's cache holds
LEAST = 1e-7  # directions along an axis are at least this long, so that nothing is divided by 0


class Hit(NamedTuple):
    """Where rays end: depth in units of the direction's length, the surface's texture and the place on it in [0, 1]."""

    depth: Float[Tensor, "*n"]
    surface: Int[Tensor, "*n"]
    u: Float[Tensor, "*n"]
    v: Float[Tensor, "*n"]


def cast(
    scene: Scene, o: Float[Tensor, "m 3"], d: Float[Tensor, "m n 3"], cells: Int[Tensor, "m"] | None = None, near: Bool[Tensor, "m k"] | None = None
) -> Hit:
    """First surface that `n` rays from each origin along `d` (any length) meet.

    cells: where the origins lie, if that is known; those of one cell should follow one another. near: which boxes and then which
    doors of its cell each origin's rays may meet; None: all. Raises ValueError for an origin outside the scene.
    """
    cells = scene.locate(o) if cells is None else cells
    m, n = d.shape[:2]
    hit = Hit(*(torch.empty(m, n, dtype=kind, device=d.device) for kind in (d.dtype, torch.int32, d.dtype, d.dtype)))
    o, flat = o.T.contiguous(), d.reshape(-1, 3)
    going, first = _Going(), 0
    for c, count in zip(*(x.tolist() for x in cells.unique_consecutive(return_counts=True)), strict=True):
        for start in range(first, first + count, most := max(1, BLOCK // n)):
            part = slice(start, min(start + most, first + count))
            through = _cross(scene.cells[c], o[:, part, None], _planes(d[part]), Hit(*(x[part] for x in hit)), None if near is None else near[part])
            going.add(through, start * n)
        first += count
    while going:
        following = _Going()
        for c, rays in going.items():
            for at in torch.cat(rays).split(BLOCK):
                _follow(scene.cells[c], at, o.index_select(1, at // n)[..., None], _planes(flat.index_select(0, at)[:, None]), hit, following)
        going = following
    return hit


class _Going(dict[int, list[Tensor]]):
    """Numbers of the rays that go on, by the cell that they go to."""

    def add(self, through: list[tuple[int, Tensor]], numbers: int | Tensor) -> None:
        """numbers: of the rays that were followed together, or of the first of them."""
        for cell, at in through:
            if len(at):
                self.setdefault(cell, []).append(at + numbers if isinstance(numbers, int) else numbers.index_select(0, at))


def _follow(cell: Cell, at: Int[Tensor, "k"], o: Float[Tensor, "3 k 1"], d: Float[Tensor, "3 k 1"], hit: Hit, following: _Going) -> None:
    """Rays number `at`, which come into a cell from another."""
    if cell.passage:
        through, ends = _pass(cell, o, d)
        following.add(through, at)
        at, o, d = at.index_select(0, ends), o.index_select(1, ends), d.index_select(1, ends)
    if len(at):
        some = Hit(*(torch.empty(len(at), 1, dtype=x.dtype, device=x.device) for x in hit))
        following.add(_cross(cell, o, d, some, None), at)
        for whole, part in zip(hit, some, strict=True):
            whole.view(-1).index_copy_(0, at, part[:, 0])


def _pass(cell: Cell, o: Float[Tensor, "3 m 1"], d: Float[Tensor, "3 m 1"]) -> tuple[list[tuple[int, Tensor]], Int[Tensor, "e"]]:
    """Which rays go through a passage to which cells, and which end in it."""
    t = _leave(cell, o, d)
    axis = cell.doors[0].side // 2
    out = t.pop(axis) < torch.minimum(*t)
    forward = d[axis] > 0
    return [(door.to, _where(out & (forward == bool(door.side % 2)))) for door in cell.doors], _where(~out)


def _cross(cell: Cell, o: Float[Tensor, "3 m 1"], d: Float[Tensor, "3 m n"], hit: Hit, near: Bool[Tensor, "m k"] | None) -> list[tuple[int, Tensor]]:
    """Rays through one cell: fills `hit`, and gives which rays go on to which cells."""
    tx, ty, tz = _leave(cell, o, d)
    yz = torch.minimum(ty, tz)
    depth = torch.minimum(tx, yz, out=hit.depth)
    on_x, on_y = tx <= yz, ty <= tz
    on_y.logical_and_(~on_x)
    positive = (d > 0).view(torch.uint8)
    x_, y_ = on_x.view(torch.uint8), on_y.view(torch.uint8)
    side = x_ * positive[0] + y_ * (positive[1] + 2) + (1 - x_ - y_) * (positive[2] + 4)  # vectorised, which `where` is not
    x, y, z = (torch.mul(depth, b).add_(a).sub_(lo).div_(hi - lo) for lo, hi, a, b in zip(cell.lo, cell.hi, o, d, strict=True))
    _choose(on_x, z, x, hit.u)
    _choose(on_y, z, y, hit.v)
    hit.surface.copy_(side).add_(cell.textures)
    if near is None:
        near = torch.ones(len(side), len(cell.boxes) + len(cell.doors), dtype=torch.bool)
    rows = [slice(int(r[0]), int(r[-1]) + 1) if len(r) else None for r in (column.nonzero()[:, 0] for column in near.T)]
    through = torch.zeros_like(side)
    for number, (door, part) in enumerate(zip(cell.doors, rows[len(cell.boxes) :], strict=False)):
        if part is not None:
            through[part].add_(_opens(door, side[part], hit.u[part], hit.v[part]), alpha=number + 1)
    for box, part in zip(cell.boxes, rows, strict=False):
        if part is not None:
            _meet(cell, box, o[:, part], d[:, part], Hit(*(x[part] for x in hit)), through[part])
    seen = rows[len(cell.boxes) :]
    return [(door.to, _where(through == number + 1)) for number, (door, part) in enumerate(zip(cell.doors, seen, strict=False)) if part is not None]


def _opens(door: Door, side: Tensor, u: Tensor, v: Tensor) -> Bool[Tensor, "m n"]:
    """Which rays that come to a cell's sides come to a door."""
    inside = side == door.side
    if door.hole is None:
        return inside
    u0, u1, v0 = door.hole
    return inside.logical_and_(u > u0).logical_and_(u < u1).logical_and_(v > v0)


def _meet(cell: Cell, box: Box, o: Float[Tensor, "3 m 1"], d: Float[Tensor, "3 m n"], hit: Hit, through: Int[Tensor, "m n"]) -> None:
    """Write down, for the rays that meet a box before what they were known to meet, where they meet it."""
    ends = [((lo - a) / b, (hi - a) / b) for lo, hi, a, b in zip(box.lo, box.hi, o, d, strict=True)]
    near_x, near_y, near_z = (torch.minimum(*e) for e in ends)
    far_x, far_y, far_z = (torch.maximum(*e) for e in ends)
    near, far = torch.maximum(near_x, near_z), torch.minimum(far_x, far_z)
    if box.lo[1] > cell.lo[1] or box.hi[1] < cell.hi[1]:  # a pillar's ends are the cell's
        near, far = torch.maximum(near, near_y), torch.minimum(far, far_y)
    at = _where((near < torch.minimum(far, hit.depth)).logical_and_(near > 0))
    if not len(at):
        return
    near, near_x, near_y, near_z = (x.view(-1).index_select(0, at) for x in (near, near_x, near_y, near_z))
    row = at // d.shape[2]
    x, y, z = (a[:, 0].index_select(0, row) + near * b.view(-1).index_select(0, at) for a, b in zip(o, d, strict=True))
    x, y, z = ((p - lo) / (hi - lo) for p, lo, hi in zip((x, y, z), box.lo, box.hi, strict=True))
    on_x, on_y = near_x > near_z, near_y >= near
    across_x, across_y, across_z = box.textures
    surface = torch.where(on_y, across_y, torch.where(on_x, across_x, across_z)).int()
    for whole, part in zip(hit, (near, surface, torch.where(on_x & ~on_y, z, x), torch.where(on_y, z, y)), strict=True):
        whole.view(-1).index_copy_(0, at, part)
    through.view(-1).index_fill_(0, at, 0)


def _planes(d: Float[Tensor, "m n 3"]) -> Float[Tensor, "3 m n"]:
    """Directions by coordinate (a stride of 3 would be slow throughout), none of them 0."""
    d = d.movedim(-1, 0).contiguous()
    size = d.abs()
    return d.masked_fill_(size < LEAST, LEAST) if size.min() < LEAST else d


def _leave(cell: Cell, o: Float[Tensor, "3 m 1"], d: Float[Tensor, "3 m n"]) -> list[Float[Tensor, "m n"]]:
    """How far rays from within are from leaving a cell along x, y and z."""
    return [torch.maximum((lo - a) / b, (hi - a) / b) for lo, hi, a, b in zip(cell.lo, cell.hi, o, d, strict=True)]


def _choose(which: Bool[Tensor, "*n"], a: Float[Tensor, "*n"], b: Float[Tensor, "*n"], out: Float[Tensor, "*n"]) -> None:
    """`torch.where`, to the bit, in a quarter of the time."""
    a, b = a.view(torch.int32), b.view(torch.int32)
    torch.bitwise_xor((a ^ b).bitwise_and_(which.int().neg_()), b, out=out.view(torch.int32))


def _where(which: Bool[Tensor, "*n"]) -> Int[Tensor, "k"]:
    return which.view(-1).nonzero()[:, 0]
