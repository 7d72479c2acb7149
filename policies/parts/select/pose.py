"""Order by camera pose."""

from dataclasses import dataclass

import torch

from harness.datatypes import KV, Chunk, Geometry
from harness.worlds.poses import angle
from policies.parts.select.base import Selector


@dataclass
class PoseSelector(Selector):
    """Distance between views: translation (L2) and rotation (geodesic), as WorldKV section 4.1 weighs them.

    The distance of two chunks is the mean, over the frames of the next one, of the distance to the nearest frame of the
    other. Scales are fixed, so that one far candidate does not reweigh the rest: `metres` of translation count as much
    as `degrees` of rotation.
    """

    metres: float = 1.0
    degrees: float = 45.0

    def reset(self, geometry: Geometry) -> None:
        if min(self.metres, self.degrees) <= 0:
            raise ValueError(f"pose selector: metres={self.metres}, degrees={self.degrees}; both must be above 0")
        self._poses = torch.empty(0, geometry.chunk, 4, 4)  # by chunk; the rest is room to grow

    def observe(self, chunk: Chunk, kv: KV) -> None:
        if chunk.index >= len(self._poses):  # doubled: stacking thousands of poses anew takes longer than comparing them
            room = torch.zeros(max(16, chunk.index + 1), *self._poses.shape[1:])
            self._poses = torch.cat([self._poses, room])
        self._poses[chunk.index] = chunk.c2w

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        if not candidates:
            return []
        past, here = self._poses[candidates][:, None], chunk.c2w[:, None]
        moved = (past[..., :3, 3] - here[..., :3, 3]).norm(dim=-1) / self.metres
        turned = angle(past[..., :3, :3], here[..., :3, :3]) / self.degrees
        distance = (moved + turned).amin(2).mean(1)
        order = distance.double().round(decimals=6).argsort(stable=True)  # as `by_score`, without a list of pairs
        return [candidates[i] for i in order.tolist()]
