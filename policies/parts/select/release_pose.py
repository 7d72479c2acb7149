"""Order by camera pose as the released WorldKV code does."""

from dataclasses import dataclass

import torch

from harness.datatypes import KV, Chunk, Geometry
from policies.parts.chunk_table import ChunkTable
from policies.parts.select.base import Selector


@dataclass
class ReleasePoseSelector(Selector):
    """cvlab-kaist/WorldKV at 046f6d1, quirks kept: a chunk is the arithmetic mean of its poses, its rotation is not
    projected back to SO(3) (a moving chunk is degrees away from itself), translations are squared, and both terms are
    divided by their maximum over the current candidates.

    Uncertain: the sink of the release. 3 frames are its class default; the configuration of its checkpoint was not seen.
    """

    def reset(self, geometry: Geometry) -> None:
        self._means = ChunkTable()
        self._means.reset()

    def observe(self, chunk: Chunk, kv: KV) -> None:
        self._means.put(chunk.index, chunk.c2w.mean(0))

    def forget(self, chunk: int) -> None:
        self._means.forget(chunk)

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        if not candidates:
            return []
        past, here = self._means.take(candidates)[0], chunk.c2w.mean(0)
        moved = (past[:, :3, 3] - here[:3, 3]).square().sum(-1)
        trace = (past[:, :3, :3] * here[:3, :3]).sum((1, 2))
        turned = ((trace - 1) / 2).clamp(-1, 1).acos()
        distance = sum(0.5 * x / x.max() if x.max() > 0 else 0.5 * x for x in (moved, turned))
        order = torch.argsort(distance, stable=True)
        return [candidates[i] for i in order.tolist()]
