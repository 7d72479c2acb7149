"""The `rooms` world: procedural 3-D rooms, ray-cast exactly for any pose.

A room is a box with textured walls, floor and ceiling and up to two square pillars that occlude and give parallax.
Everything is a pure function of the room's seed, in torch, on any device.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from harness.worlds import raycast
from harness.worlds import render as pictures
from harness.worlds.covisibility import CoVisibility
from harness.worlds.poses import integrate
from harness.worlds.raycast import Hit
from harness.worlds.scene import Box, Cell, Scene

EYE = 1.5  # metres from the floor; y points down, the eye is at y = 0
TEXELS = 64  # per surface side: about 10 cm, one pixel of a 64-pixel image at 3 m
# disjoint seeds: what was trained on is never tested on
SEEDS = {"train": range(0, 10**8), "validation": range(10**8, 2 * 10**8), "test": range(2 * 10**8, 3 * 10**8)}
UPRIGHT = (0, 1, 4, 5)  # a room's walls among its textures
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

    @cached_property
    def scene(self) -> Scene:
        """The room as a scene of one cell."""
        lo, hi = tuple(self.lo.tolist()), tuple(self.hi.tolist())
        boxes = [Box((x0, lo[1], z0), (x1, hi[1], z1), (6 + i, 6 + i, 6 + i)) for i, (x0, x1, z0, z1) in enumerate(self.pillars.tolist())]
        return Scene((Cell(lo, hi, 0, tuple(boxes)),), self.textures.permute(0, 2, 3, 1).contiguous())

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


def painted(g: Generator) -> Float[Tensor, "3 r r"]:
    """A wall's texture."""
    return _texture(g, pictures=True)


def cast(room: Room, o: Float[Tensor, "m 3"], d: Float[Tensor, "m n 3"]) -> Hit:
    return raycast.cast(room.scene, o, d)


def render(room: Room, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], supersample: int = 2) -> Float[Tensor, "f 3 y x"]:
    """Images in [0, 1] of a room from camera poses, `supersample`^2 rays a pixel."""
    return pictures.render(room.scene, c2w, intrinsics, size, supersample)


def covisibility(room: Room, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], samples: int = 8) -> Float[Tensor, "f f"]:
    """Co-visibility of every pair of views, see `harness.worlds.covisibility`."""
    return CoVisibility(room.scene, c2w, intrinsics, size, samples)(range(len(c2w)), range(len(c2w)))
