"""Order by the points of past views that the next views see: every point votes for the chunk that showed it first."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Rule, Side, Weight
from harness.worlds.poses import rays
from policies.parts.cells import NOBODY, first_of_each, oldest_of_each
from policies.parts.select.base import Selector, by_score

Voxel = Annotated[float, Rule(lambda x: x == 0 or x >= 0.001, "0 or a number from 0.001")]
RAYS = 8  # rows and columns of a view's rays that become points: as many as worlds tell of


@dataclass
class PointVotesSelector(Selector):
    """Memory Forcing (arXiv 2510.03198) and VMem (arXiv 2506.18903): the surface points that past frames showed form a cloud, the cloud is
    drawn into every view of the next chunk, and each point that is visible there votes for the chunk that showed it first, with
    1 / (1 + depth). Chunks come by votes, those without a vote oldest first. Depth is what a small head of the backbone's own predicts
    from the chunk's latents (VMem's comes from CUT3R).

    voxel: edge in metres of the cells of space that hold one point, the first that fell into it, so that the cloud grows with explored space
    (0: every point is kept); beside it are the cells that each chunk in the bank showed. A point is visible if no other point of the same of `grid` x `grid`
    parts of the image is nearer by more than the share `slack`. A forgotten chunk's points go to the oldest chunk left that showed them too, and vanish where
    there is none. Measured on a tour of a house walked 25 times (64 rays a view, true depth): after 1,000 chunks the cloud has 4,300 points and ordering
    takes 2 ms of an EPYC core; with voxel=0 it has 192,000, and takes 26 ms.

    Simplified: the head was trained on true depth of scenes of the same generator (error of the logarithm of depth on validation
    scenes: 0.18). VMem votes at the mean pose of the target alone, its votes carry the cosine between a surfel's normal and the view, and it takes
    4 frames and leaves out those near to a chosen one; Memory Forcing takes the 8 best frames for half of its window. Uncertain: both papers' voxels
    and weights, and whether a point belongs to the first frame alone.
    """

    voxel: Voxel = 0.1
    grid: Side = 16
    slack: Weight = 0.1

    def reset(self, geometry: Geometry) -> None:
        self._points, self._owner, self._cells = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        self._shown, self._by = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)  # every cell with each chunk that showed it, its own or not

    def points(self, chunk: Chunk, kv: KV) -> Float[Tensor, "f r 3"]:
        """Of the chunk that was made, along at most `RAYS` x `RAYS` rays of each view. Raises ValueError where nothing says how deep it is."""
        depth = kv.depth() if kv.depth else None
        if depth is None:
            raise ValueError(
                "point votes need depth, and this backbone has no head that predicts it (rooms has one where the arm geometry is: "
                "python harness/train.py arm=geometry); use policy=pointvotes_true, which asks the world, or another selector"
            )
        v, u = depth.shape[1:]
        cx, cy = chunk.intrinsics[0, 2:].tolist()  # half the image, which is centred on its principal point
        origin, direction = rays(chunk.c2w, chunk.intrinsics, (v, u), (v / (2 * cy), u / (2 * cx)))
        points = origin[:, None] + depth.flatten(1)[..., None] * direction
        rows, columns = (torch.arange(n)[(step := -(-n // RAYS)) // 2 :: step] for n in (v, u))
        return points.unflatten(1, (v, u))[:, rows][:, :, columns].flatten(1, 2)

    def observe(self, chunk: Chunk, kv: KV) -> None:
        new = self.points(chunk, kv).flatten(0, 1)
        new = new[new.isfinite().all(1)]
        cells = (new / self.voxel if self.voxel else new).floor().long() + 2**20
        codes = (cells * 2 ** (21 * torch.arange(3))).sum(1)
        if self.voxel:
            shown = codes.unique()
            self._shown, self._by = torch.cat([self._shown, shown]), torch.cat([self._by, torch.full_like(shown, chunk.index)])
        fresh = first_of_each(codes) & ~torch.isin(codes, self._cells) if self.voxel else torch.ones(len(new), dtype=torch.bool)
        self._points, self._cells = torch.cat([self._points, new[fresh]]), torch.cat([self._cells, codes[fresh]])
        self._owner = torch.cat([self._owner, torch.full((int(fresh.sum()),), chunk.index)])

    def forget(self, chunk: int) -> None:
        others = self._by != chunk
        self._shown, self._by = self._shown[others], self._by[others]
        orphans = self._owner == chunk
        self._owner[orphans] = oldest_of_each(self._cells[orphans], self._shown, self._by)
        stays = self._owner < NOBODY
        self._points, self._owner, self._cells = self._points[stays], self._owner[stays], self._cells[stays]

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        votes = torch.zeros(chunk.index + 1, dtype=torch.double)
        for c2w, intrinsics in zip(chunk.c2w, chunk.intrinsics, strict=True):
            seen, depth = self._visible(c2w, intrinsics)
            votes.index_add_(0, self._owner[seen], 1 / (1 + depth[seen].double()))
        return by_score(votes[candidates].round(decimals=6).tolist(), candidates)

    def _visible(self, c2w: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "4"]) -> tuple[Bool[Tensor, "n"], Float[Tensor, "n"]]:
        """Which points of the cloud a view shows, and how deep they lie. Images are centred on their principal point."""
        fx, fy, cx, cy = intrinsics
        x, y, z = ((self._points - c2w[:3, 3]) @ c2w[:3, :3]).unbind(-1)
        at = torch.stack([y / z * fy / cy, x / z * fx / cx], 1)
        inside = (z > 0) & (at.abs() < 1).all(1)
        row, column = ((at[inside] + 1) / 2 * self.grid).long().unbind(1)
        part, depth = row * self.grid + column, z[inside]
        nearest = depth.new_full((self.grid**2,), torch.inf).scatter_reduce(0, part, depth, "amin")
        seen = inside.clone()
        seen[inside] = depth <= nearest[part] * (1 + self.slack)
        return seen, z


@dataclass
class TruePointVotesSelector(PointVotesSelector):
    """As `pointvotes`, with the world's TRUE depth along the path, whatever the model showed there: what such votes could know of geometry,
    and no bound of quality. Voxels, grid and slack as there."""

    def points(self, chunk: Chunk, kv: KV) -> Float[Tensor, "f r 3"]:
        if kv.points is None:
            raise ValueError("point votes need true depth, which only worlds with geometry have; use world=rooms, world=houses or another selector")
        return kv.points()
