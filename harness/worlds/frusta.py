"""How much of one view another one shows where nothing is known of the scene but how far one sees: the overlap of frusta."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.worlds.poses import angle

GRID, SHELLS = 8, 4  # points of a view: 8 x 8 rays with 4 depths each
NEAR = 0.25  # of the depth: where the nearest points of a view lie


@dataclass(frozen=True)
class FrustumOverlap:
    """Mutual overlap of views of a path: the smaller of the two shares of one view's points that the other has in its frustum, and no
    more than the angle between them leaves of the field of view.

    A view's points lie on rays through it, between a quarter of `depth` (metres) and `depth`, even in the logarithm. fov: degrees, of
    the picture's width; aspect: its height over its width. Nothing is occluded: without geometry nobody knows.
    """

    c2w: Float[Tensor, "f 4 4"]
    fov: float
    aspect: float
    depth: float

    def __call__(self, rows: Sequence[int], columns: Sequence[int]) -> Float[Tensor, "n m"]:
        """Of each view of `rows` with each of `columns`."""
        a, b = (x.flatten() for x in torch.meshgrid(torch.as_tensor(list(rows)), torch.as_tensor(list(columns)), indexing="ij"))
        turned = angle(self.c2w[a, :3, :3], self.c2w[b, :3, :3])
        share = torch.minimum(self._seen(a, b), self._seen(b, a))
        return torch.minimum(share, (1 - turned / self.fov).clamp(min=0)).view(len(rows), len(columns))

    def _seen(self, of: Int[Tensor, "n"], by: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Share of the points of view `of[i]` that view `by[i]` has in its frustum."""
        half = torch.tan(torch.deg2rad(torch.tensor(self.fov / 2)))
        across = ((torch.arange(GRID) + 0.5) / GRID * 2 - 1) * half
        y, x = torch.meshgrid(across * self.aspect, across, indexing="ij")
        depths = self.depth * NEAR ** (1 - (torch.arange(SHELLS) + 0.5) / SHELLS)
        points = (torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 1, 3) * depths[:, None]).view(-1, 3)
        world = points @ self.c2w[of, :3, :3].transpose(1, 2) + self.c2w[of, None, :3, 3]
        x, y, z = ((world - self.c2w[by, None, :3, 3]) @ self.c2w[by, :3, :3]).unbind(-1)
        inside = (z > 0) & (x.abs() <= half * z) & (y.abs() <= half * self.aspect * z)
        return inside.float().mean(1)


def reach(c2w: Float[Tensor, "f 4 4"]) -> float:
    """The largest distance between two places of a path, in metres."""
    places = c2w[:, :3, 3]
    return max((places - place).norm(dim=1).max().item() for place in places)
