"""Fixed points before a camera, and which cameras see them."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 48 * 1024  # pairs of a camera and a point that are looked at together: three tables of them take 600 kB


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


class Cameras(NamedTuple):
    """Axes, what is added to a point's product with them to have its place before the camera, and 1 over the slopes of the picture's sides."""

    axes: Float[np.ndarray, "3 g 3"]
    offsets: Float[np.ndarray, "3 g"]
    slopes: Float[np.ndarray, "2 g"]

    @staticmethod
    def of(c2w: Float[Tensor, "g 4 4"], intrinsics: Float[Tensor, "g 4"]) -> "Cameras":
        axes, centre = c2w[:, :3, :3].permute(2, 0, 1), c2w[:, :3, 3]
        fx, fy, cx, cy = intrinsics.unbind(1)
        return Cameras(np.ascontiguousarray(axes.numpy()), -(axes * centre).sum(-1).numpy(), torch.stack([fx / cx, fy / cy]).numpy())

    def some(self, which: Int[np.ndarray, "k"]) -> "Cameras":
        return Cameras(*(part.take(which, axis=1) for part in self))


def sees(points: Float[Tensor, "p 3"], cameras: Cameras, far: float) -> Bool[Tensor, "g p"]:
    """Which points lie in the frustum of each camera, at most `far` deep.

    One coordinate of all points after the other, in parts that a core's cache holds and without new memory: for 3,000 cameras and 768 points a
    quarter of the time that whole tensors take. Of a point at a camera's very centre nothing is said.
    """
    axes, offsets, slopes = cameras
    count = offsets.shape[1]
    seen = np.empty((count, len(points)), dtype=bool)
    width = max(1, min(len(points), BLOCK))
    step = max(1, BLOCK // width)
    room, flag = np.empty((3, step * width), np.float32), np.empty(step * width, bool)
    for first in range(0, len(points), width):
        part = np.ascontiguousarray(points[first : first + width].numpy().T)
        for start in range(0, count, step):
            some = slice(start, start + step)
            out = seen[some, first : first + width]
            x, y, depth = (np.matmul(axes[i, some], part, out=room[i, : out.size].reshape(out.shape)) for i in range(3))
            for along, offset in ((x, offsets[0]), (y, offsets[1]), (depth, offsets[2])):
                along += offset[some, None]
            for across, slope in ((x, slopes[0]), (y, slopes[1])):
                np.multiply(np.abs(across, out=across), slope[some, None], out=across)
            not_far = np.less(depth, far, out=flag[: out.size].reshape(out.shape))
            np.logical_and(np.less_equal(np.maximum(x, y, out=x), depth, out=out), not_far, out=out)
    return torch.from_numpy(seen)


def may_see(points: Float[Tensor, "f p 3"], cameras: Cameras, grid: int, shells: int, far: float) -> Bool[Tensor, "g b"]:
    """Which blocks (see `blocks`) of the probe points of all views each camera may see any point of. Of those that it may not it sees none: their
    bounding spheres lie beyond one side of its frustum."""
    members = points[:, blocks(grid, shells)[0]].flatten(0, 1)  # b k 3
    middle = members.mean(1)
    radius = (members - middle[:, None]).norm(dim=-1).amax(1) * 1.001 + 1e-4 * far  # rounding of float32
    return near(middle, radius, cameras, far)


def near(middle: Float[Tensor, "b 3"], radius: Float[Tensor, "b"], cameras: Cameras, far: float) -> Bool[Tensor, "g b"]:
    """Which spheres reach to the inner side of every plane of each camera's frustum."""
    axes, offsets, slopes = cameras
    count = offsets.shape[1]
    places, size = np.ascontiguousarray(middle.numpy().T), radius.numpy()
    lengths = np.sqrt(1 + slopes**2)
    inside = np.empty((count, len(size)), dtype=bool)
    step = max(1, BLOCK // max(1, len(size)))
    for start in range(0, count, step):
        some = slice(start, start + step)
        depth = axes[2, some] @ places
        depth += offsets[2, some, None]
        out = np.less(depth, far + size, out=inside[some])
        for i in range(2):
            across = axes[i, some] @ places
            across += offsets[i, some, None]
            np.multiply(np.abs(across, out=across), slopes[i, some, None], out=across)
            out &= np.subtract(across, depth, out=across) <= lengths[i, some, None] * size
    return torch.from_numpy(inside)


@cache
def blocks(grid: int, shells: int) -> tuple[Int[Tensor, "b k"], Int[np.ndarray, "p"]]:
    """A view's probe points in blocks of neighbours, a quarter of the view and one shell each: the points of each block (where one has fewer
    than others, its first again), and each point's block."""
    half = torch.arange(grid) * 2 // grid if grid > 1 else torch.zeros(1, dtype=torch.long)
    block = ((half[:, None] * 2 + half)[..., None] * shells + torch.arange(shells)).flatten().unique(return_inverse=True)[1]
    members = [(block == i).nonzero()[:, 0] for i in range(int(block.max()) + 1)]
    most = max(map(len, members))
    return torch.stack([torch.cat([m, m[:1].expand(most - len(m))]) for m in members]), block.numpy()
