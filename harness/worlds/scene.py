"""Scenes of textured axis-aligned boxes, ray-cast exactly for any pose, in batches, on any device.

A scene is a set of cells: boxes that are seen from inside, with boxes standing in them. Cells open into one another through
doors, rectangles of a side where two cells touch. A ray is followed from cell to cell, so that it meets the few boxes of the
cells that it crosses and never those of the whole scene: a house costs little more than its room. One cell without doors is a room.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.worlds.poses import rays

BLOCK = 1 << 16  # rays that are followed together: 256 kB a tensor, what a core's cache holds


class Door(NamedTuple):
    """An opening in side `side` (0 to 5: -x +x -y +y -z +z) of a cell, between (u0, u1) and (v0, v1) in [0, 1] of that side, into cell `to`."""

    side: int
    u0: float
    u1: float
    v0: float
    v1: float
    to: int


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


@dataclass(frozen=True)
class Scene:
    """cells: which tile a part of space. textures: square images in [0, 1]."""

    cells: tuple[Cell, ...]
    textures: Float[Tensor, "t 3 r r"]

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

    cells: where the origins lie, if that is known. near: which boxes of its cell each origin's rays may meet; None: all. Raises ValueError for an origin outside the scene.
    """
    d = torch.where(d.abs() < 1e-7, 1e-7, d).movedim(-1, 0).contiguous()
    return _follow(scene, scene.locate(o) if cells is None else cells, o.T[..., None].contiguous(), d, near)


def _follow(scene: Scene, cell: Int[Tensor, "m"], o: Float[Tensor, "3 m 1"], d: Float[Tensor, "3 m n"], near: Bool[Tensor, "m k"] | None) -> Hit:
    """Rays that are in a cell of their own, to their end."""
    m, n = d.shape[1:]
    floats, whole = torch.empty(3, m, n, device=d.device), torch.empty(2, m, n, dtype=torch.long, device=d.device)
    hit, onward = Hit(floats[0], whole[0], floats[1], floats[2]), whole[1]
    for c in cell.unique().tolist():
        here = (cell == c).nonzero()[:, 0]
        for rows in here.split(max(1, BLOCK // n)):
            part = slice(int(rows[0]), int(rows[-1]) + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows
            boxes = scene.cells[c].boxes
            if near is not None:
                boxes = [b for b, seen in zip(boxes, near[part].any(0).tolist(), strict=False) if seen]
            for whole_, piece in zip((*hit, onward), _cross(scene.cells[c], boxes, o[:, part], d[:, part]), strict=True):
                whole_[part] = piece
    if len(scene.cells) > 1:
        go = (onward.view(-1) >= 0).nonzero()[:, 0]
        if len(go):
            rest = _follow(scene, onward.view(-1)[go], o[:, go // n], d.reshape(3, -1)[:, go, None], None)
            for whole_, piece in zip(hit, rest, strict=True):
                whole_.view(-1)[go] = piece[:, 0]
    return hit


def _cross(cell: Cell, boxes: Sequence[Box], o: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rays through one cell: as `Hit`, and the cell that they go on to, -1 where they end."""
    ox, oy, oz = o
    dx, dy, dz = d
    forward = d > 0
    t = [torch.where(f, hi - a, lo - a) / b for f, lo, hi, a, b in zip(forward, cell.lo, cell.hi, o, d, strict=True)]
    yz = torch.minimum(t[1], t[2])
    depth = torch.minimum(t[0], yz)
    on_x = t[0] <= yz
    on_y = (t[1] <= t[2]) & ~on_x
    axis = torch.where(on_x, 0, torch.where(on_y, 2, 4))
    side = axis + torch.where(on_x, forward[0], torch.where(on_y, forward[1], forward[2]))
    size = [hi - lo for lo, hi in zip(cell.lo, cell.hi, strict=True)]
    # along x and z, except that a side across an axis has no extent along it
    u = (torch.where(on_x, oz, ox) + depth * torch.where(on_x, dz, dx) - torch.where(on_x, cell.lo[2], cell.lo[0])) / torch.where(on_x, size[2], size[0])
    v = (torch.where(on_y, oz, oy) + depth * torch.where(on_y, dz, dy) - torch.where(on_y, cell.lo[2], cell.lo[1])) / torch.where(on_y, size[2], size[1])
    onward = torch.full_like(side, -1)
    for door in cell.doors:
        onward.masked_fill_((side == door.side) & (u > door.u0) & (u < door.u1) & (v > door.v0) & (v < door.v1), door.to)
    surface = side.add_(cell.textures)
    for box in boxes:
        _meet(cell, box, o, d, depth, surface, u, v, onward)
    return depth, surface, u, v, onward


def _meet(cell: Cell, box: Box, o: Tensor, d: Tensor, depth: Tensor, surface: Tensor, u: Tensor, v: Tensor, onward: Tensor) -> None:
    """Write down, for the rays that meet a box before what they were known to meet, where they meet it."""
    ends = [((lo - a) / b, (hi - a) / b) for lo, hi, a, b in zip(box.lo, box.hi, o, d, strict=True)]
    near_x, near_y, near_z = (torch.minimum(*e) for e in ends)
    far_x, far_y, far_z = (torch.maximum(*e) for e in ends)
    near, far = torch.maximum(near_x, near_z), torch.minimum(far_x, far_z)
    if box.lo[1] > cell.lo[1] or box.hi[1] < cell.hi[1]:  # a pillar's ends are the cell's
        near, far = torch.maximum(near, near_y), torch.minimum(far, far_y)
    at = ((near > 0) & (near < far) & (near < depth)).view(-1).nonzero()[:, 0]
    if not len(at):
        return
    near, near_x, near_y, near_z = (x.reshape(-1)[at] for x in (near, near_x, near_y, near_z))
    row = at // depth.shape[1]
    x, y, z = (a[row, 0] + near * b.reshape(-1)[at] for a, b in zip(o, d, strict=True))
    x, y, z = ((p - lo) / (hi - lo) for p, lo, hi in zip((x, y, z), box.lo, box.hi, strict=True))
    on_x, on_y = near_x > near_z, near_y >= near
    depth.view(-1)[at], onward.view(-1)[at] = near, -1
    surface.view(-1)[at] = torch.where(on_y, box.textures[1], torch.where(on_x, box.textures[0], box.textures[2]))
    u.view(-1)[at] = torch.where(on_x & ~on_y, z, x)
    v.view(-1)[at] = torch.where(on_y, z, y)


def render(
    scene: Scene, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], supersample: int = 2
) -> Float[Tensor, "f 3 y x"]:
    """Images in [0, 1] of a scene from camera poses, `supersample`^2 rays a pixel."""
    grid = (size[0] * supersample, size[1] * supersample)
    origin, direction = rays(c2w, intrinsics, grid, supersample)
    cells = scene.locate(origin)
    _, surface, u, v = cast(scene, origin, direction, cells, _in_view(scene, cells, c2w, intrinsics, size))
    colour = _sample(scene.textures, surface, u, v).transpose(1, 2).unflatten(-1, grid)
    return F.avg_pool2d(colour, supersample)


def _in_view(scene: Scene, cells: Tensor, c2w: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Bool[Tensor, "f k"] | None:
    """Which boxes of the cell that it stands in a view may show: those whose corners are not all beyond one side of the view."""
    most = max(len(c.boxes) for c in scene.cells)
    if not most:
        return None
    nothing = ((0.0,) * 3, (0.0,) * 3)
    ends = [[(b.lo, b.hi) for b in c.boxes] + [nothing] * (most - len(c.boxes)) for c in scene.cells]
    ends = torch.tensor(ends, dtype=c2w.dtype, device=c2w.device)[cells]  # f k 2 3
    x, y, z = (ends[:, :, i, a] for a, i in ((0, [0, 0, 0, 0, 1, 1, 1, 1]), (1, [0, 0, 1, 1, 0, 0, 1, 1]), (2, [0, 1, 0, 1, 0, 1, 0, 1])))
    corners = (torch.stack([x, y, z], -1).flatten(1, 2) - c2w[:, None, :3, 3]) @ c2w[:, :3, :3]
    x, y, z = corners.unflatten(1, (most, 8)).unbind(-1)
    fx, fy, cx, cy = intrinsics.to(c2w)[:, :, None, None].unbind(1)
    beyond = (z <= 0, x * fx < -cx * z, x * fx > (size[1] - cx) * z, y * fy < -cy * z, y * fy > (size[0] - cy) * z)
    return ~torch.stack([b.all(-1) for b in beyond]).any(0)


def _sample(textures: Tensor, surface: Tensor, u: Tensor, v: Tensor) -> Float[Tensor, "f n 3"]:
    """Bilinear look-up of texture `surface` at (u, v) in [0, 1]."""
    size = textures.shape[-1]
    flat = textures.permute(0, 2, 3, 1).reshape(-1, 3)
    x, y = ((c * size - 0.5).clamp(0, size - 1.001) for c in (u, v))
    x0, y0 = x.long(), y.long()
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    at = (surface * size + y0) * size + x0
    top = torch.lerp(flat[at], flat[at + 1], fx)
    bottom = torch.lerp(flat[at + size], flat[at + size + 1], fx)
    return torch.lerp(top, bottom, fy)
