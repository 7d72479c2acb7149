"""What cameras see of fixed probe points: the ground that the view-based selectors stand on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Positive, Side
from policies.parts.chunk_table import ChunkTable
from policies.parts.select.base import Selector

BLOCK = 48 * 1024  # pairs of a camera and a point that are looked at together: three tables of them take 600 kB


@dataclass
class FrustumSelector(Selector):
    """Selectors that compare views by probe points: `grid` x `grid` rays through every view of the next chunk, with
    `shells` points each at depths spaced evenly in the logarithm from `near` to `far` metres.

    Without depth nobody knows where on its ray the scene lies, so every depth counts alike and walls hide nothing. A
    camera sees what is in its frustum, at most `far` away. Images are taken to be centred on their principal point.
    Chunks whose cameras are the same to 1e-4 are looked at once.
    """

    grid: Side = 8
    shells: Side = 4
    near: Positive = 0.5
    far: Positive = 8.0

    def reset(self, geometry: Geometry) -> None:
        if self.near >= self.far:
            raise ValueError(f"frustum selector: near={self.near}, far={self.far}; near must be below far")
        self._size = geometry.chunk
        self._cameras = ChunkTable()
        self._cameras.reset()

    def observe(self, chunk: Chunk, kv: KV) -> None:
        self._cameras.put(chunk.index, chunk.c2w, chunk.intrinsics, _label(chunk.c2w, chunk.intrinsics))

    def forget(self, chunk: int) -> None:
        self._cameras.forget(chunk)

    def kinds(self, candidates: list[int]) -> "Kinds":
        """Candidates with the same cameras together."""
        return Kinds(np.array(candidates), self._cameras.take_one(2, candidates).numpy())

    def seen(self, chunk: Chunk, frames: Sequence[int]) -> Bool[Tensor, "g f p"]:
        """Which probe points of each view of `chunk` the views of `frames` see."""
        points = self._probes(chunk.c2w, chunk.intrinsics)
        if not frames:
            return torch.zeros(0, *points.shape[:2], dtype=torch.bool)
        c2w, intrinsics, _ = self._cameras.take([f // self._size for f in frames])
        own = torch.arange(len(frames)), torch.tensor([f % self._size for f in frames])
        return sees(points.flatten(0, 1), c2w[own], intrinsics[own], self.far).unflatten(1, points.shape[:2])

    def views(self, chunk: Chunk, candidates: list[int]) -> Bool[Tensor, "c v f p"]:
        """`seen` by each of the `v` frames of candidate chunks."""
        points, (c2w, intrinsics, _) = self._probes(chunk.c2w, chunk.intrinsics), self._cameras.take(candidates)
        seen = sees(points.flatten(0, 1), c2w.flatten(0, 1), intrinsics.flatten(0, 1), self.far)
        return seen.view(len(candidates), self._size, *points.shape[:2])

    def may_see(self, chunk: Chunk, candidates: list[int]) -> Bool[Tensor, "c v b"]:
        """Which blocks of the probe points of all views of `chunk` (see `blocks`) each view of the candidates may see any point of. Of those
        that it may not it sees none: their bounding spheres lie beyond one side of its frustum."""
        points, (c2w, intrinsics, _) = self._probes(chunk.c2w, chunk.intrinsics), self._cameras.take(candidates)
        members = points[:, blocks(self.grid, self.shells)[0]].flatten(0, 1)  # b k 3
        middle = members.mean(1)
        radius = (members - middle[:, None]).norm(dim=-1).amax(1) * 1.001 + 1e-4 * self.far  # rounding of float32
        return near(middle, radius, c2w.flatten(0, 1), intrinsics.flatten(0, 1), self.far).view(len(candidates), self._size, -1)

    def back(self, chunk: Chunk, candidates: list[int]) -> Float[Tensor, "c v f"]:
        """The other direction: the share of the probe points of each candidate's view that each view of `chunk` sees."""
        c2w, intrinsics, _ = self._cameras.take(candidates)
        points = self._probes(c2w.flatten(0, 1), intrinsics.flatten(0, 1))
        share = sees(points.flatten(0, 1), chunk.c2w, chunk.intrinsics, self.far).unflatten(1, points.shape[:2]).float().mean(-1)
        return share.T.unflatten(0, (len(candidates), self._size))

    def _probes(self, c2w: Tensor, intrinsics: Tensor) -> Tensor:
        return probes(c2w, intrinsics, self.grid, self.shells, self.near, self.far)


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


def sees(points: Float[Tensor, "p 3"], c2w: Float[Tensor, "g 4 4"], intrinsics: Float[Tensor, "g 4"], far: float) -> Bool[Tensor, "g p"]:
    """Which points lie in the frustum of each camera, at most `far` deep.

    One coordinate of all points after the other, in parts that a core's cache holds and without new memory: for 3,000 cameras and 768 points a
    quarter of the time that whole tensors take. Of a point at a camera's very centre nothing is said.
    """
    axes, offsets, slopes = _cameras(c2w, intrinsics)
    seen = np.empty((len(c2w), len(points)), dtype=bool)
    width = max(1, min(len(points), BLOCK))
    step = max(1, BLOCK // width)
    room, flag = np.empty((3, step * width), np.float32), np.empty(step * width, bool)
    for first in range(0, len(points), width):
        part = np.ascontiguousarray(points[first : first + width].numpy().T)
        for start in range(0, len(c2w), step):
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


def near(
    middle: Float[Tensor, "b 3"], radius: Float[Tensor, "b"], c2w: Float[Tensor, "g 4 4"], intrinsics: Float[Tensor, "g 4"], far: float
) -> Bool[Tensor, "g b"]:
    """Which spheres reach to the inner side of every plane of each camera's frustum."""
    axes, offsets, slopes = _cameras(c2w, intrinsics)
    x, y, depth = axes @ middle.numpy().T + offsets[..., None]
    inside = depth < far + radius.numpy()
    for across, slope in ((x, slopes[0]), (y, slopes[1])):
        np.multiply(np.abs(across, out=across), slope[:, None], out=across)
        inside &= np.subtract(across, depth, out=across) <= np.sqrt(1 + slope**2)[:, None] * radius.numpy()
    return torch.from_numpy(inside)


def _cameras(
    c2w: Float[Tensor, "g 4 4"], intrinsics: Float[Tensor, "g 4"]
) -> tuple[Float[np.ndarray, "3 g 3"], Float[np.ndarray, "3 g"], Float[np.ndarray, "2 g"]]:
    """Axes, what is added to a point's product with them to have its place before the camera, and 1 over the slopes of the picture's sides."""
    axes, centre = c2w[:, :3, :3].permute(2, 0, 1), c2w[:, :3, 3]
    fx, fy, cx, cy = intrinsics.unbind(1)
    return np.ascontiguousarray(axes.numpy()), -(axes * centre).sum(-1).numpy(), torch.stack([fx / cx, fy / cy]).numpy()


@cache
def blocks(grid: int, shells: int) -> tuple[Int[Tensor, "b k"], Int[np.ndarray, "p"]]:
    """A view's probe points in blocks of neighbours, a quarter of the view and one shell each: the points of each block (where one has fewer
    than others, its first again), and each point's block."""
    half = torch.arange(grid) * 2 // grid if grid > 1 else torch.zeros(1, dtype=torch.long)
    block = ((half[:, None] * 2 + half)[..., None] * shells + torch.arange(shells)).flatten().unique(return_inverse=True)[1]
    members = [(block == i).nonzero()[:, 0] for i in range(int(block.max()) + 1)]
    most = max(map(len, members))
    return torch.stack([torch.cat([m, m[:1].expand(most - len(m))]) for m in members]), block.numpy()


class Kinds:
    """Candidates in groups of equal labels, the groups in the order of their first members."""

    def __init__(self, candidates: Int[np.ndarray, "c"], labels: Int[np.ndarray, "c"]) -> None:
        order = labels.argsort(kind="stable")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(labels[order])) + 1])
        firsts = candidates[order[starts]]
        rank = firsts.argsort(kind="stable")
        self._sorted, self._starts = candidates[order], starts[rank]
        self._stops = np.append(starts[1:], len(order))[rank]
        self.firsts = firsts[rank]

    def members(self, kind: int) -> list[int]:
        return self._sorted[self._starts[kind] : self._stops[kind]].tolist()

    def lists(self) -> list[list[int]]:
        """The members of every kind."""
        whole = self._sorted.tolist()
        return [whole[a:b] for a, b in zip(self._starts.tolist(), self._stops.tolist(), strict=True)]


def _label(c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"]) -> Int[Tensor, ""]:
    """One number for the cameras of a chunk, the same for the same ones."""
    numbers = torch.cat([c2w[:, :3].flatten(), intrinsics.flatten()]).double().mul(1e4).round().long()
    factors = torch.randint(2**62, numbers.shape, generator=torch.Generator().manual_seed(0))
    return (numbers * (2 * factors + 1)).sum()  # modulo 2^64: a polynomial hash
