"""A bank of a fixed number of chunks."""

from dataclasses import dataclass

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Count
from policies.parts.evict.base import Eviction
from policies.parts.wrapped import check_retrieves, settled


@dataclass
class BoundedPolicy(PolicyWrapper):
    """At most `chunks` chunks between sink and recent frames, around any policy that retrieves: the eviction controls of Keepsake
    (arXiv 2610.06588).

    A chunk is settled once it is neither sink nor recent, whether or not the inner policy may choose it. When `chunks` are held and one more is settled, one
    goes; until then, that is for one plan, it is a candidate beside them. Evicted chunks are unreachable, and reported so.
    evict: which one goes, `alike` (k-centre) or `oldest` (fifo) for Keepsake's controls. chunks: a bound of the bank; it does not follow `budget=`, which
    bounds the window.

    Uncertain: Keepsake's own rule is not public as far as we know, so that only its controls are here.
    """

    inner: CachePolicy
    evict: Eviction
    chunks: Count = 6

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        check_retrieves(self.inner, "kcentre")
        self.evict.reset(geometry)
        self._size, self._last = geometry.chunk, -1
        self._held: list[int] = []  # chunks that are settled
        self._fresh: list[int] = []  # chunks that became candidates and are not settled yet
        self._planned = set[int]()

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = super().plan(chunk, bank)
        self._fresh = settled(plan, self._last, chunk.start, self._size)
        self._planned = {f // self._size for f in plan.frames}
        return plan

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        super().commit(chunk, kv, bank)
        self.evict.observe(chunk, kv, self._planned | {chunk.index})
        for gone in [c for c in self._held if not any(map(bank.rows, range(c * self._size, (c + 1) * self._size)))]:  # an outer wrapper dropped it
            self._drop(gone, bank)
        for fresh in self._fresh:
            self._held.append(fresh)
            self._last = fresh
            if len(self._held) > self.chunks:
                self._drop(self.evict.next(self._held), bank)

    def _drop(self, chunk: int, bank: KVBank) -> None:
        self._held.remove(chunk)
        self.evict.gone(chunk)
        for frame in filter(bank.rows, range(chunk * self._size, (chunk + 1) * self._size)):
            bank.drop(frame)
