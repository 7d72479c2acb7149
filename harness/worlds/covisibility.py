"""How much of one view another one shows: from the scene's own geometry, with occlusion, for the pairs that are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.worlds.poses import rays
from harness.worlds.raycast import cast
from harness.worlds.render import depths
from harness.worlds.scene import Scene

PAIRS = 4096  # pairs of views that are looked at together
NEARER = 0.98  # a point is occluded by what is nearer than this share of the way to it


@dataclass(frozen=True)
class CoVisibility:
    """Mutual co-visibility of views of a scene: the smaller of the two shares of one view's surface points that the other sees
    too, inside its frustum and not occluded; from `samples`^2 rays a view.

    No pair is looked at before it is asked for: a tour of 300 frames has 90,000 of them, and few are ever of use.

    changed_at, changed: from this frame on these surfaces (textures of the scene) are others, so that views from before and after it share none
    of their points.
    """

    scene: Scene
    c2w: Float[Tensor, "f 4 4"]
    intrinsics: Float[Tensor, "f 4"]
    size: tuple[int, int]
    samples: int = 8
    changed_at: int = 0
    changed: tuple[int, ...] = ()

    def led_on(self, start: int, c2w: Float[Tensor, "p 4 4"], intrinsics: Float[Tensor, "p 4"]) -> "CoVisibility":
        """Of the views before `start`, and from there of others."""
        return replace(self, c2w=torch.cat([self.c2w[:start], c2w]), intrinsics=torch.cat([self.intrinsics[:start], intrinsics]))

    def __call__(self, rows: Sequence[int], columns: Sequence[int]) -> Float[Tensor, "n m"]:
        """Of each view of `rows` with each of `columns`."""
        first, second = torch.as_tensor(list(rows)), torch.as_tensor(list(columns))
        a, b = (x.flatten() for x in torch.meshgrid(first, second, indexing="ij"))
        return self.pairs(a, b).view(len(first), len(second))

    def surface(self, rows: Sequence[int], columns: Sequence[int]) -> Bool[Tensor, "n s m"]:
        """Which of the points that each view of `rows` shows (`samples`^2 of them) each view of `columns` shows too."""
        first, second = torch.as_tensor(list(rows)), torch.as_tensor(list(columns))
        a, b = (x.flatten() for x in torch.meshgrid(first, second, indexing="ij"))
        seen = torch.cat([self._shared(i, j) for i, j in zip(a.split(PAIRS), b.split(PAIRS), strict=True)])
        return seen.view(len(first), len(second), -1).transpose(1, 2)

    def shown(self, views: Sequence[int]) -> Float[Tensor, "n s 3"]:
        """Where the rays of views, `samples`^2 each, meet surfaces."""
        return self.points(torch.as_tensor(list(views)))

    def depth(self, rows: Sequence[int], size: tuple[int, int]) -> Float[Tensor, "n y x"]:
        """True depth along the optical axis of views, at the centres of `size` pixels."""
        view = torch.as_tensor(list(rows))
        return depths(self.scene, self.c2w[view], self.intrinsics[view], size, (size[0] / self.size[0], size[1] / self.size[1]))

    def pairs(self, a: Int[Tensor, "n"], b: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Of views `a[i]` and `b[i]`."""
        shares = [
            torch.minimum(self._shared(i, j).float().mean(1), self._shared(j, i).float().mean(1)) for i, j in zip(a.split(PAIRS), b.split(PAIRS), strict=True)
        ]
        return torch.cat(shares)

    def _shared(self, i: Int[Tensor, "n"], j: Int[Tensor, "n"]) -> Bool[Tensor, "n s"]:
        """Which points of views `i` views `j` show too, as they looked."""
        seen = self.seen(self._points[i], j)
        if not self.changed:
            return seen
        between = (i < self.changed_at) != (j < self.changed_at)
        return seen & ~(between[:, None] & self._others[i])

    @cached_property
    def _points(self) -> Float[Tensor, "f s 3"]:
        """Where the rays of every view meet surfaces: as many rays as a few images have."""
        return self.points(torch.arange(len(self.c2w)))

    @cached_property
    def _others(self) -> Bool[Tensor, "f s"]:
        """Which of them lie on surfaces that change."""
        origin, direction = self._rays(torch.arange(len(self.c2w)))
        surface = cast(self.scene, origin, direction, self._cells).surface
        return torch.isin(surface, torch.tensor(self.changed, device=surface.device))

    def points(self, view: Int[Tensor, "n"]) -> Float[Tensor, "n s 3"]:
        """Where the rays of views meet surfaces."""
        origin, direction = self._rays(view)
        return origin[:, None] + cast(self.scene, origin, direction, self._cells[view]).depth[..., None] * direction

    def _rays(self, view: Int[Tensor, "n"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n s 3"]]:
        """On a grid over the whole picture, whatever its shape."""
        scale = self.samples / self.size[0], self.samples / self.size[1]
        return rays(self.c2w[view], self.intrinsics[view], (self.samples, self.samples), scale)

    @cached_property
    def _cells(self) -> Int[Tensor, "f"]:
        return self.scene.locate(self.c2w[:, :3, 3])

    def seen(self, points: Float[Tensor, "n s 3"], view: Int[Tensor, "n"]) -> Bool[Tensor, "n s"]:
        """Which points of surfaces each view sees."""
        c2w, (fx, fy, cx, cy) = self.c2w[view], self.intrinsics[view].T[..., None]
        ray = points - c2w[:, None, :3, 3]
        x, y, z = (ray @ c2w[:, :3, :3]).unbind(-1)
        column, row = x / z.clamp(min=1e-6) * fx + cx, y / z.clamp(min=1e-6) * fy + cy
        seen = (z > 0) & (column >= 0) & (column <= self.size[1]) & (row >= 0) & (row <= self.size[0])
        at, point = seen.nonzero().unbind(1)
        hit = cast(self.scene, c2w[at, :3, 3], ray[at, point, None], self._cells[view[at]])
        seen[at, point] = hit.depth[:, 0] > NEARER
        return seen
