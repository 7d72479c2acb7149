"""How much of one view another one shows: from the scene's own geometry, with occlusion, for the pairs that are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.worlds.poses import rays
from harness.worlds.scene import Scene, cast

PAIRS = 4096  # pairs of views that are looked at together
NEARER = 0.98  # a point is occluded by what is nearer than this share of the way to it


@dataclass(frozen=True)
class CoVisibility:
    """Mutual co-visibility of views of a scene: the smaller of the two shares of one view's surface points that the other sees
    too, inside its frustum and not occluded; from `samples`^2 rays a view.

    Nothing is computed before it is asked for: a tour of 300 frames has 90,000 pairs, and most of them are never looked at.
    """

    scene: Scene
    c2w: Float[Tensor, "f 4 4"]
    intrinsics: Float[Tensor, "f 4"]
    size: tuple[int, int]
    samples: int = 8

    def __call__(self, rows: Sequence[int], columns: Sequence[int]) -> Float[Tensor, "n m"]:
        """Of each view of `rows` with each of `columns`."""
        first, second = torch.as_tensor(list(rows)), torch.as_tensor(list(columns))
        a, b = (x.flatten() for x in torch.meshgrid(first, second, indexing="ij"))
        return self.pairs(a, b).view(len(first), len(second))

    def pairs(self, a: Int[Tensor, "n"], b: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Of views `a[i]` and `b[i]`."""
        views, at = torch.cat([a, b]).unique(return_inverse=True)
        origin, direction = rays(self.c2w[views], self.intrinsics[views], (self.samples, self.samples), self.samples / self.size[0])
        cells = self.scene.locate(origin)
        points = origin[:, None] + cast(self.scene, origin, direction, cells=cells).depth[..., None] * direction
        first, second = at[: len(a)], at[len(a) :]
        shares = [
            torch.minimum(self._share(points[i], views[j], cells[j]), self._share(points[j], views[i], cells[i]))
            for i, j in zip(first.split(PAIRS), second.split(PAIRS), strict=True)
        ]
        return torch.cat(shares)

    def _share(self, points: Float[Tensor, "n s 3"], view: Int[Tensor, "n"], cell: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The share of points that each view sees. cell: where the view is taken."""
        c2w, (fx, fy, cx, cy) = self.c2w[view], self.intrinsics[view].T[..., None]
        ray = points - c2w[:, None, :3, 3]
        x, y, z = (ray @ c2w[:, :3, :3]).unbind(-1)
        column, row = x / z.clamp(min=1e-6) * fx + cx, y / z.clamp(min=1e-6) * fy + cy
        seen = (z > 0) & (column >= 0) & (column <= self.size[1]) & (row >= 0) & (row <= self.size[0])
        at, point = seen.nonzero().unbind(1)
        seen[at, point] = cast(self.scene, c2w[at, :3, 3], ray[at, point, None], cells=cell[at]).depth[:, 0] > NEARER
        return seen.float().mean(1)
