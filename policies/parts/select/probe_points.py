"""Fixed points before a camera, and which cameras see them."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 48 * 1024  # pairs of a camera and a point that are looked at together: two tables of them take 400 kB


def probes(c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], grid: int, shells: int, near: float, far: float) -> Float[Tensor, "f p 3"]:
    """World coordinates of the probe points of each view; none lies on the border of its frustum."""
    fx, fy, cx, cy = intrinsics.unbind(1)
    points = _probes_of_a_square(grid, shells, near, far) * torch.stack([cx / fx, cy / fy, torch.ones_like(fx)], 1)[:, None]
    return torch.baddbmm(c2w[:, None, :3, 3], points, c2w[:, :3, :3].transpose(1, 2))


@cache
def _probes_of_a_square(grid: int, shells: int, near: float, far: float) -> Float[Tensor, "p 3"]:
    """In the coordinates of a camera whose frustum is 90 degrees wide and high."""
    at = (torch.arange(grid) + 0.5) / grid * 2 - 1
    depth = near * (far / near) ** ((torch.arange(shells) + 0.5) / shells)
    y, x = torch.meshgrid(at, at, indexing="ij")
    return (torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)[:, None] * depth[:, None]).flatten(0, 1)


def frustums(c2w: Float[Tensor, "g 4 4"], intrinsics: Float[Tensor, "g 4"], far: float) -> Float[Tensor, "g 5 4"]:
    """The sides of what each camera sees, at most `far` deep: unit normals that point outwards, and what is added to a point's product with them to
    have its distance from the side. Images are taken to be centred on their principal point."""
    axes, centre = c2w[:, :3, :3].transpose(1, 2), c2w[:, :3, 3, None]
    fx, fy, cx, cy = intrinsics.unbind(1)
    slopes = torch.stack([fx / cx, fy / cy, -fx / cx, -fy / cy], 1)[..., None]
    sides = (slopes * axes[:, [0, 1, 0, 1]] - axes[:, 2:]) / (1 + slopes**2).sqrt()
    normals = torch.cat([sides, axes[:, 2:]], 1)
    offsets = -normals @ centre
    offsets[:, 4] -= far
    return torch.cat([normals, offsets], 2)


def sees(points: Float[Tensor, "p 3"], cameras: Float[Tensor, "g 5 4"], radius: float | Float[Tensor, "p"] = 0.0) -> Bool[Tensor, "g p"]:
    """Which points, or spheres about them, are not outside of any side of what each camera sees (`frustums`).

    One side of all cameras after the other, in parts that a core's cache holds and without new memory: for 3,000 cameras and 768 points an eighth of the
    time that whole tensors take. Of a point at a camera's very centre nothing is said.
    """
    sides = cameras.numpy().swapaxes(0, 1)
    places = np.concatenate([points.numpy().T, np.ones((1, len(points)), np.float32)])
    seen = np.empty((len(cameras), len(points)), dtype=bool)
    width = max(1, min(len(points), BLOCK))
    step = max(1, BLOCK // width)
    room = np.empty((2, step * width), np.float32)
    for first in range(0, len(points), width):
        part = slice(first, first + width)
        here, limit = np.ascontiguousarray(places[:, part]), radius.numpy()[part] if isinstance(radius, Tensor) else radius
        for start in range(0, len(cameras), step):
            some = slice(start, start + step)
            out = seen[some, part]
            outside, other = (x[: out.size].reshape(out.shape) for x in room)
            np.matmul(sides[0, some], here, out=outside)
            for side in sides[1:, some]:
                np.maximum(outside, np.matmul(side, here, out=other), out=outside)
            np.less_equal(outside, limit, out=out)
    return torch.from_numpy(seen)


def may_see(points: Float[Tensor, "f p 3"], cameras: Float[Tensor, "g 5 4"], grid: int, shells: int, far: float) -> Bool[Tensor, "g b"]:
    """Which blocks (see `blocks`) of the probe points of all views each camera may see any point of. Of those that it may not it sees none: their
    bounding spheres lie beyond one side of its frustum."""
    members = points[:, blocks(grid, shells)[0]].flatten(0, 1)  # b k 3
    middle = members.mean(1)
    radius = (members - middle[:, None]).norm(dim=-1).amax(1) * 1.001 + 1e-4 * far  # rounding of float32
    return sees(middle, cameras, radius)


@cache
def blocks(grid: int, shells: int) -> tuple[Int[Tensor, "b k"], Int[np.ndarray, "p"]]:
    """A view's probe points in blocks of neighbours, a quarter of the view and one shell each: the points of each block (where one has fewer
    than others, its first again), and each point's block."""
    half = torch.arange(grid) * 2 // grid if grid > 1 else torch.zeros(1, dtype=torch.long)
    block = ((half[:, None] * 2 + half)[..., None] * shells + torch.arange(shells)).flatten().unique(return_inverse=True)[1]
    members = [(block == i).nonzero()[:, 0] for i in range(int(block.max()) + 1)]
    most = max(map(len, members))
    return torch.stack([torch.cat([m, m[:1].expand(most - len(m))]) for m in members]), block.numpy()
