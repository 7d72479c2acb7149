"""Order by camera pose."""

from dataclasses import dataclass

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Positive
from harness.worlds.poses import distances
from policies.parts.chunk_table import ChunkTable
from policies.parts.select.base import Selector


@dataclass
class PoseSelector(Selector):
    """Distance between views: translation (L2) plus rotation (geodesic), the two terms of WorldKV section 4.1.

    The distance of two chunks is the mean, over the frames of the next one, of the distance to the nearest frame of the
    other. Scales are fixed, so that one far candidate does not reweigh the rest: `metres` of translation count as much
    as `degrees` of rotation.
    Uncertain: how the paper scales its terms. Its released code gives each half the weight, divided by its greatest value among
    the candidates, on mean poses of chunks: that is the selector `release_pose`. The scales here are ours.
    """

    metres: Positive = 1.0
    degrees: Positive = 45.0

    def reset(self, geometry: Geometry) -> None:
        self._poses = ChunkTable()
        self._poses.reset()

    def observe(self, chunk: Chunk, kv: KV) -> None:
        self._poses.put(chunk.index, chunk.c2w)

    def forget(self, chunk: int) -> None:
        self._poses.forget(chunk)

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        if not candidates:
            return []
        (past,) = self._poses.take(candidates)  # c f 4 4
        moved, turned = distances(past.flatten(0, 1), chunk.c2w)
        distance = (moved / self.metres + turned / self.degrees).unflatten(0, past.shape[:2]).amin(1).mean(1)
        order = distance.double().round(decimals=6).argsort(stable=True)  # as `by_score`, without a list of pairs
        return [candidates[i] for i in order.tolist()]
