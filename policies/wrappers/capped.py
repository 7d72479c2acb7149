"""Any policy under a limit of stored bytes."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Limit


@dataclass
class CappedPolicy(PolicyWrapper):
    """What memories are worth at equal bytes: when the frames that are remembered take more than `frames` uncompressed ones
    would, wherever they are kept and in whatever form, chunks are forgotten until they fit.

    forget: `lru` (the chunk that no plan has used for longest; the rule of KV caches on servers, LMCache's too) or `oldest`. The
    frames of the last plan and of the chunk itself stay; if they alone are too many, reset the limit: ValueError. Forgotten
    chunks are unreachable. Pages that stand for many frames (tempcache's) are one: such policies have limits of their own.
    """

    inner: CachePolicy
    frames: Limit = 18
    forget: Literal["lru", "oldest"] = "lru"

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self._size, self._limit = geometry.chunk, self.frames * geometry.frame_bytes
        self._used: dict[int, int] = {}  # chunk -> the last chunk whose plan named it

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = super().plan(chunk, bank)
        self._used |= {f // self._size: chunk.index for f in plan.frames}
        return plan

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        super().commit(chunk, kv, bank)
        self._used[chunk.index] = chunk.index
        sizes = {f: bank.size(f) for f in bank.frames}
        total = sum(sizes.values())
        if total <= self._limit or self.frames == inf:
            return
        idle = {f // self._size for f in sizes} - {c for c, last in self._used.items() if last == chunk.index}
        for victim in sorted(idle, key=lambda c: (self._used.get(c, -1) if self.forget == "lru" else 0, c)):
            for frame in [f for f in sizes if f // self._size == victim]:
                bank.drop(frame)
                total -= sizes[frame]
            if total <= self._limit:
                return
        raise ValueError(
            f"capped: chunk {chunk.index} and its window take {total} bytes, more than the {self._limit:.0f} of frames={self.frames}; "
            f"give frames={total / self._limit * self.frames:.0f} or a smaller window"
        )
