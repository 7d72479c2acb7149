"""The `rooms` world: procedural 3-D rooms, ray-cast exactly for any pose.

A room is a box with textured walls, floor and ceiling and up to two square pillars that occlude and give parallax.
Everything is a pure function of the room's seed, in torch, on any device.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from harness.worlds.poses import integrate, rays

EYE = 1.5  # metres from the floor; y points down, the eye is at y = 0
TEXELS = 64  # per surface side: about 10 cm, one pixel of a 64-pixel image at 3 m
# disjoint seeds: what was trained on is never tested on
SEEDS = {"train": range(0, 10**8), "validation": range(10**8, 2 * 10**8), "test": range(2 * 10**8, 3 * 10**8)}
MARGIN = 0.5  # metres a camera keeps from walls and pillars


@dataclass(frozen=True)
class Room:
    """lo, hi: corners of the box in metres. pillars: (x0, x1, z0, z1), floor to ceiling. textures: -x +x -y +y -z +z, then pillars."""

    lo: Float[Tensor, "3"]
    hi: Float[Tensor, "3"]
    pillars: Float[Tensor, "p 4"]
    textures: Float[Tensor, "t 3 r r"]

    def to(self, device: torch.device | str) -> "Room":
        return Room(*(t.to(device) for t in (self.lo, self.hi, self.pillars, self.textures)))

    def free(self, xz: Float[Tensor, "*n 2"]) -> Tensor:
        """Whether a camera may stand at floor positions `xz`: `MARGIN` away from every surface."""
        inside = ((xz > self.lo[[0, 2]] + MARGIN) & (xz < self.hi[[0, 2]] - MARGIN)).all(-1)
        x, z = xz[..., 0, None], xz[..., 1, None]
        x0, x1, z0, z1 = self.pillars.unbind(-1)
        return inside & ~((x > x0 - MARGIN) & (x < x1 + MARGIN) & (z > z0 - MARGIN) & (z < z1 + MARGIN)).any(-1)


def make_room(seed: int, pillars: int = 2) -> Room:
    """The room of a seed: 4.5 to 8 m a side, 2.6 to 3.4 m high, 0 to `pillars` pillars."""
    g = torch.Generator().manual_seed(seed)
    width, depth = (4.5 + 3.5 * torch.rand(2, generator=g)).tolist()
    height = 2.6 + 0.8 * torch.rand(1, generator=g).item()
    lo, hi = torch.tensor([-width / 2, EYE - height, -depth / 2]), torch.tensor([width / 2, EYE, depth / 2])
    n = int(torch.randint(pillars + 1, (1,), generator=g))
    centre = (torch.rand(n, 2, generator=g) - 0.5) * torch.tensor([width - 2.0, depth - 2.0])
    half = 0.15 + 0.2 * torch.rand(n, 1, generator=g)
    boxes = torch.stack([centre - half, centre + half], -1).flatten(1)
    textures = torch.stack([_texture(g, pictures=i not in (2, 3)) for i in range(6 + n)])
    return Room(lo, hi, boxes, textures)


def place(g: Generator, room: Room, c2w: Float[Tensor, "f 4 4"], tries: int = 64) -> tuple[Float[Tensor, "f 4 4"], Float[Tensor, "f 4 4"]]:
    """A random start in a room from which every pose of a walk is free: the walk in the room, and relative to its start.

    When nothing fits after `tries` starts, the walk's steps are halved.
    """
    while True:
        for _ in range(tries):
            turn, spot = torch.rand(1, generator=g) * 360, torch.rand(2, generator=g)
            start = integrate(torch.tensor([[0.0] * 6, [0, 0, 0, 0, turn.item(), 0]]), 0.0)[1]
            start[[0, 2], 3] = torch.lerp(room.lo[[0, 2]], room.hi[[0, 2]], spot)
            world = start @ c2w
            if room.free(world[:, [0, 2], 3]).all():
                return world, c2w
        c2w = c2w.clone()
        c2w[:, :3, 3] *= 0.5


def _texture(g: Generator, pictures: bool) -> Float[Tensor, "3 r r"]:
    """A base colour with a pattern, large soft stains, darker edges and, on walls, one to three pictures."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g)

    def colour(saturation: float = 0.6) -> Tensor:
        return torch.lerp(0.15 + 0.7 * uniform(1, 1, 1), 0.15 + 0.7 * uniform(3, 1, 1), saturation)

    base = colour()
    other = torch.lerp(base, colour(), 0.6)
    line = (torch.arange(TEXELS) + 0.5) / TEXELS
    v, u = torch.meshgrid(line, line, indexing="ij")
    count, phase = 2 + int(4 * uniform(1)), uniform(1).item()
    stripes = torch.sin(6.2832 * (count * u + phase))
    pattern = (
        torch.zeros_like(u),
        stripes,
        stripes * torch.sin(6.2832 * (count * v + phase)),
        torch.sin(6.2832 * (count * v + 0.5 * torch.sign(stripes))),
    )[int(4 * uniform(1))]
    texture = base + (other - base) * (0.5 + 0.5 * (3 * pattern).tanh())
    stains = F.interpolate(uniform(1, 1, 6, 6) - 0.5 + 0.4 * (uniform(1, 3, 6, 6) - 0.5), (TEXELS, TEXELS), mode="bicubic")[0]
    texture = texture + 0.3 * stains
    edge = torch.minimum(torch.minimum(u, 1 - u), torch.minimum(v, 1 - v))
    texture = texture * (1 - 0.35 * torch.exp(-edge / 0.06))
    for _ in range(1 + int(3 * uniform(1)) if pictures else 0):
        w, h = (10 + 14 * uniform(2)).int().tolist()
        x, y = int(2 + uniform(1) * (TEXELS - 4 - w)), int(8 + uniform(1) * (TEXELS - 24 - h))
        canvas = F.interpolate(0.1 + 0.8 * uniform(1, 3, 3, 3), (h, w), mode="bilinear", align_corners=True)[0]
        texture[:, y : y + h, x : x + w] = colour(0.8)
        texture[:, y + 2 : y + h - 2, x + 2 : x + w - 2] = canvas[:, 2:-2, 2:-2]
    return texture.clamp(0.0, 1.0)


class Hit(NamedTuple):
    """Where rays end: depth in units of the direction's length, the surface's texture and the place on it in [0, 1]."""

    depth: Float[Tensor, "*n"]
    surface: Int[Tensor, "*n"]
    u: Float[Tensor, "*n"]
    v: Float[Tensor, "*n"]


def cast(room: Room, o: Float[Tensor, "*n 3"], d: Float[Tensor, "*n 3"]) -> Hit:
    """First surface that rays from `o` (inside the room) along `d` (any length) meet."""
    d = torch.where(d.abs() < 1e-7, torch.full_like(d, 1e-7), d)
    depth, axis = ((torch.where(d > 0, room.hi, room.lo) - o) / d).min(-1)
    positive = d.gather(-1, axis[..., None])[..., 0] > 0
    point = (o + depth[..., None] * d - room.lo) / (room.hi - room.lo)
    u = torch.where(axis == 0, point[..., 2], point[..., 0])
    v = torch.where(axis == 1, point[..., 2], point[..., 1])
    surface = 2 * axis + positive
    for i, (x0, x1, z0, z1) in enumerate(room.pillars):
        tx = torch.stack([(x0 - o[..., 0]) / d[..., 0], (x1 - o[..., 0]) / d[..., 0]])
        tz = torch.stack([(z0 - o[..., 2]) / d[..., 2], (z1 - o[..., 2]) / d[..., 2]])
        near_x, near_z = tx.amin(0), tz.amin(0)
        near, far = torch.maximum(near_x, near_z), torch.minimum(tx.amax(0), tz.amax(0))
        hit = (near > 0) & (near < far) & (near < depth)
        at = o + near[..., None] * d
        along = torch.where(near_x > near_z, (at[..., 2] - z0) / (z1 - z0), (at[..., 0] - x0) / (x1 - x0))
        depth, surface = torch.where(hit, near, depth), torch.where(hit, 6 + i, surface)
        u = torch.where(hit, along, u)
        v = torch.where(hit, (at[..., 1] - room.lo[1]) / (room.hi[1] - room.lo[1]), v)
    return Hit(depth, surface, u, v)


def render(room: Room, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], supersample: int = 2) -> Float[Tensor, "f 3 y x"]:
    """Images in [0, 1] of a room from camera poses, `supersample`^2 rays a pixel."""
    grid = (size[0] * supersample, size[1] * supersample)
    origin, direction = rays(c2w, intrinsics, grid, supersample)
    _, surface, u, v = cast(room, origin[:, None], direction)
    colour = _sample(room.textures, surface, u, v).transpose(1, 2).unflatten(-1, grid)
    return F.avg_pool2d(colour, supersample)


def covisibility(room: Room, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], samples: int = 8) -> Float[Tensor, "f f"]:
    """Mutual co-visibility of every pair of views: the smaller of the two shares of one view's surface points that the
    other sees too, inside its frustum and not occluded; from `samples`^2 rays a view."""
    origin, direction = rays(c2w, intrinsics, (samples, samples), samples / size[0])
    depth = cast(room, origin[:, None], direction).depth
    points = origin[:, None] + depth[..., None] * direction
    share = torch.empty(len(c2w), len(c2w))
    for j in range(len(c2w)):
        ray = points - origin[j]
        camera = ray @ c2w[j, :3, :3]
        fx, fy, cx, cy = intrinsics[j]
        column = camera[..., 0] / camera[..., 2].clamp(min=1e-6) * fx + cx
        row = camera[..., 1] / camera[..., 2].clamp(min=1e-6) * fy + cy
        inside = (camera[..., 2] > 0) & (column >= 0) & (column <= size[1]) & (row >= 0) & (row <= size[0])
        visible = cast(room, origin[j].expand_as(ray), ray).depth > 0.98
        share[:, j] = (inside & visible).float().mean(1)
    return torch.minimum(share, share.T)


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
