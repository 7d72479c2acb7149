"""A placement for policies that have none of their own."""

from dataclasses import dataclass, replace
from itertools import groupby

from harness.cache.bank import KVBank
from harness.datatypes import Chunk, Geometry, Plan
from harness.policy import CachePolicy, PolicyWrapper
from policies.parts.place.base import Placement


@dataclass
class PlacedPolicy(PolicyWrapper):
    """Any policy under any placement. Frames up to the first gap of a plan are its sink, the rest is recent, unless the
    policy says that they were retrieved; a plan without a gap is all recent."""

    inner: CachePolicy
    placement: Placement

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        if self.raw_keys:
            raise ValueError(f"placed: {type(self.inner).__name__} places its rows itself; set that policy's own placement instead of wrapping it")
        if self.rotated_keys:
            raise ValueError(f"placed: {type(self.inner).__name__} computes with keys as they were rotated, which a placement keeps un-rotated; wrap another")
        if self.pooled:
            raise ValueError(f"placed: {type(self.inner).__name__} keeps rows of many frames in one page, which no one time can place; use its realign")
        if self.placement.by_similarity:
            raise ValueError(
                "placed: plans name what was retrieved in the order of time, so no order by similarity can be kept; use policy.placement.order=time"
            )
        self.raw_keys, self._size = self.placement.moves, geometry.chunk

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = super().plan(chunk, bank)
        fixed = [f for f in plan.frames if f not in plan.retrieved]
        gap = next((i for i in range(1, len(fixed)) if fixed[i] > fixed[i - 1] + 1), 0)
        sink, recent = fixed[:gap], fixed[gap:]
        retrieved = [list(frames) for _, frames in groupby(plan.retrieved, lambda f: f // self._size)]
        times = self.placement.times(sink, retrieved, recent, chunk.start, self._size)
        return replace(plan, frames=(*sink, *plan.retrieved, *recent), times=times)
