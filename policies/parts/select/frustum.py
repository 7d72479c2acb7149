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

    def kinds(self, candidates: list[int]) -> list[list[int]]:
        """Candidates with the same cameras together, each kind and all kinds in the order of their first."""
        labels = self._cameras.take_one(2, candidates).numpy()
        order = labels.argsort(kind="stable")
        groups = np.split(np.array(candidates)[order], np.flatnonzero(np.diff(labels[order])) + 1)
        return sorted((group.tolist() for group in groups), key=lambda group: group[0])

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
    """Which points lie in the frustum of each camera, at most `far` deep. One coordinate of all points after the other: a sixth
    of the time that points of three coordinates take."""
    axes, centre = c2w[:, :3, :3].permute(2, 0, 1), c2w[:, :3, 3]
    at, (fx, fy, cx, cy) = points.T.contiguous(), intrinsics.unbind(1)

    def along(axis: int) -> Float[Tensor, "g p"]:
        return torch.addmm(-(axes[axis] * centre).sum(1, keepdim=True), axes[axis], at)

    depth = along(2)
    inside = along(0).abs_().mul_((fx / cx)[:, None]).le(depth)
    inside &= along(1).abs_().mul_((fy / cy)[:, None]).le(depth)
    inside &= depth.lt(far)
    return inside.logical_and_(depth.gt(0))


def _label(c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"]) -> Int[Tensor, ""]:
    """One number for the cameras of a chunk, the same for the same ones."""
    numbers = torch.cat([c2w[:, :3].flatten(), intrinsics.flatten()]).double().mul(1e4).round().long()
    factors = torch.randint(2**62, numbers.shape, generator=torch.Generator().manual_seed(0))
    return (numbers * (2 * factors + 1)).sum()  # modulo 2^64: a polynomial hash
