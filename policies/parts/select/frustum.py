"""What cameras see of fixed probe points: the ground that the view-based selectors stand on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from policies.parts.select.base import Selector


@dataclass
class FrustumSelector(Selector):
    """Selectors that compare views by probe points: `grid` x `grid` rays through every view of the next chunk, with
    `shells` points each at depths spaced evenly in the logarithm from `near` to `far` metres.

    Without depth nobody knows where on its ray the scene lies, so every depth counts alike and walls hide nothing. A
    camera sees what is in its frustum, at most `far` away. Images are taken to be centred on their principal point.
    """

    grid: int = 8
    shells: int = 4
    near: float = 0.5
    far: float = 8.0

    def reset(self, geometry: Geometry) -> None:
        if min(self.grid, self.shells) < 1 or not 0 < self.near < self.far:
            raise ValueError(
                f"frustum selector: grid={self.grid}, shells={self.shells}, near={self.near}, far={self.far}; use at least one point and 0 < near < far"
            )
        self._size = geometry.chunk
        self._cameras: dict[int, tuple[Tensor, Tensor]] = {}

    def observe(self, chunk: Chunk, kv: KV) -> None:
        self._cameras |= {f: (chunk.c2w[i], chunk.intrinsics[i]) for i, f in enumerate(chunk.frames)}

    def seen(self, chunk: Chunk, frames: Sequence[int]) -> Bool[Tensor, "g f p"]:
        """Which probe points of each view of `chunk` the views of `frames` see."""
        points = self._probes(chunk.c2w, chunk.intrinsics)
        if not frames:
            return torch.zeros(0, *points.shape[:2], dtype=torch.bool)
        return sees(points.flatten(0, 1), *self._stacked(frames), self.far).unflatten(1, points.shape[:2])

    def views(self, chunk: Chunk, candidates: list[int]) -> Bool[Tensor, "c v f p"]:
        """`seen` by each of the `v` frames of candidate chunks."""
        return self.seen(chunk, self._frames(candidates)).unflatten(0, (len(candidates), self._size))

    def back(self, chunk: Chunk, candidates: list[int]) -> Float[Tensor, "c v f"]:
        """The other direction: the share of the probe points of each candidate's view that each view of `chunk` sees."""
        points = self._probes(*self._stacked(self._frames(candidates)))
        share = sees(points.flatten(0, 1), chunk.c2w, chunk.intrinsics, self.far).unflatten(1, points.shape[:2]).float().mean(-1)
        return share.T.unflatten(0, (len(candidates), self._size))

    def _frames(self, candidates: list[int]) -> list[int]:
        return [f for c in candidates for f in range(c * self._size, (c + 1) * self._size)]

    def _stacked(self, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
        c2w, intrinsics = zip(*(self._cameras[f] for f in frames), strict=True)
        return torch.stack(c2w), torch.stack(intrinsics)

    def _probes(self, c2w: Tensor, intrinsics: Tensor) -> Tensor:
        return probes(c2w, intrinsics, self.grid, self.shells, self.near, self.far)


def probes(c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], grid: int, shells: int, near: float, far: float) -> Float[Tensor, "f p 3"]:
    """World coordinates of the probe points of each view; none lies on the border of its frustum."""
    at = (torch.arange(grid) + 0.5) / grid * 2 - 1
    depth = near * (far / near) ** ((torch.arange(shells) + 0.5) / shells)
    y, x = torch.meshgrid(at, at, indexing="ij")
    fx, fy, cx, cy = intrinsics[:, :, None, None].unbind(1)
    rays = torch.stack([x * cx / fx, y * cy / fy, torch.ones(len(c2w), grid, grid)], -1).flatten(1, 2)
    points = (rays[:, :, None] * depth[:, None]).flatten(1, 2)
    return points @ c2w[:, :3, :3].transpose(1, 2) + c2w[:, None, :3, 3]


def sees(points: Float[Tensor, "p 3"], c2w: Float[Tensor, "g 4 4"], intrinsics: Float[Tensor, "g 4"], far: float) -> Bool[Tensor, "g p"]:
    """Which points lie in the frustum of each camera, at most `far` deep."""
    x, y, z = ((points - c2w[:, None, :3, 3]) @ c2w[:, :3, :3]).unbind(-1)
    fx, fy, cx, cy = intrinsics[:, :, None].unbind(1)
    return (z > 0) & (z < far) & (x.abs() * fx <= cx * z) & (y.abs() * fy <= cy * z)
