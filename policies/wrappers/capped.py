"""Any policy under a limit of stored bytes."""

from dataclasses import dataclass, field
from math import ceil, inf

from harness.cache.bank import KVBank
from harness.cache.scratch import scratch_bytes
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Limit
from policies.parts.evict.base import Eviction, Lru


@dataclass
class CappedPolicy(PolicyWrapper):
    """What memories are worth at equal bytes: when a chunk is done and all that is stored takes more than `frames` uncompressed frames would,
    chunks are forgotten until it fits. Stored are the window with the chunk's own rows, the bank in whatever form and tier, what lies in both
    twice, the backbone's state, and the policies' scratch: the `stored` column, which is never above the limit.

    A frame counts as the backbone keeps it: at `backbone.dtype=bfloat16` the same `frames` are half the bytes of float32, for window
    and bank alike.

    evict: which chunk goes: `lru`, `oldest` or `alike`. The frames of the last plan and of the chunk itself stay; if these alone exceed the limit,
    a ValueError says which `frames` would do. Pages of which a plan takes single rows (Quest's) are used too, and go last under `lru`. Forgotten
    chunks are unreachable. Pages that stand for many frames (tempcache's) are one: such policies have limits of their own.

    While a chunk is made, frames that have just left the window lie in the bank too, until it is done. Copies that a store fetches ahead
    (`store=cpu` on a GPU, `store=disk`) have a limit of their own and are not counted here.
    """

    inner: CachePolicy
    frames: Limit = 30
    evict: Eviction = field(default_factory=Lru)
    weighs_bytes = True  # without annotation: not a field

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        geometry.check_alone("capped")  # each rank has all of the backbone's state, so bytes are not the same share of a limit
        self._size, self._limit = geometry.chunk, self.frames * geometry.frame_bytes
        self._frame_bytes = geometry.frame_bytes
        self.evict.reset(geometry)
        self._known = set[int]()  # chunks in the bank
        self._planned, self._pooled = set[int](), set[int]()  # chunks that the newest plan names, or takes rows of; a plan that a fork replaces uses nothing

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = super().plan(chunk, bank)
        self._planned = {f // self._size for f in plan.frames}
        self._pooled = {f // self._size for frames in plan.pools.values() for f in frames}
        return plan

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        super().commit(chunk, kv, bank)
        used = self._planned | {chunk.index}
        self.evict.observe(chunk, kv, used | self._pooled)
        there = {f // self._size for f in bank.frames}
        for gone in self._known - there:  # the inner policy dropped it
            self.evict.gone(gone)
        self._known = there
        if self.frames == inf or self._fits(bank):
            return
        idle = there - used
        while idle:
            idle.remove(victim := self.evict.next(idle))
            there.remove(victim)
            for frame in filter(bank.rows, range(victim * self._size, (victim + 1) * self._size)):
                bank.drop(frame)
            self.evict.gone(victim)
            if self._fits(bank):
                return
        scratch = scratch_bytes(self)
        total = bank.stored_bytes + scratch
        raise ValueError(
            f"capped: chunk {chunk.index}, its window, their copies in the bank and {scratch} bytes of scratch take {total} bytes, more than "
            f"the {self._limit:.0f} of frames={self.frames}; give frames={ceil(total / self._frame_bytes)} or a smaller window"
        )

    def _fits(self, bank: KVBank) -> bool:
        return bank.stored_bytes + scratch_bytes(self) <= self._limit
