"""A bank of a fixed number of chunks."""

from dataclasses import dataclass
from typing import Literal

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Count
from policies.parts.likeness import Likeness
from policies.parts.wrapped import check_retrieves, settled


@dataclass
class KCentrePolicy(PolicyWrapper):
    """At most `chunks` chunks between sink and recent frames, around any policy that retrieves: the eviction controls of Keepsake
    (arXiv 2610.06588).

    A chunk is settled once it is neither sink nor recent, whether or not the inner policy may choose it. When `chunks` are held and one more is settled, one
    goes; until then, that is for one plan, it is a candidate beside them. Evicted chunks are unreachable, and reported so.
    rule: `kcentre` keeps views spread: of the two chunks with the greatest likeness l(a, b) (mutual view overlap, see
    `policies.parts.likeness`; ties to the older pair) the newer goes: a removal at a time, not the greedy farthest-first choice that k-centre is often
    computed by. `fifo`: the oldest goes. chunks: a bound of the bank; it does not follow `budget=`, which bounds the window.

    Uncertain: Keepsake's own rule is not public as far as we know, so that only its controls are here; whether its k-centre is
    greedy over poses (as here) or over features.
    """

    inner: CachePolicy
    likeness: Likeness
    chunks: Count = 6
    rule: Literal["kcentre", "fifo"] = "kcentre"

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        check_retrieves(self.inner, "kcentre")
        self.likeness.reset(geometry)
        self._size, self._last = geometry.chunk, -1
        self._fresh: list[int] = []  # chunks that became candidates and are not settled yet
        self._near: dict[int, dict[int, float]] = {}  # chunk that is held -> its likeness to the older ones

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = super().plan(chunk, bank)
        self._fresh = settled(plan, self._last, chunk.start, self._size)
        return plan

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        super().commit(chunk, kv, bank)
        self.likeness.observe(chunk, kv)
        for gone in [c for c in self._near if not any(map(bank.rows, range(c * self._size, (c + 1) * self._size)))]:  # an outer wrapper dropped it
            self._evict(gone, bank)
        for fresh in self._fresh:
            held = list(self._near)
            self._near[fresh] = dict(zip(held, self.likeness.to(fresh, held), strict=True))
            self._last = fresh
            if len(self._near) > self.chunks:
                self._evict(self._victim(), bank)

    def _victim(self) -> int:
        if self.rule == "fifo":
            return min(self._near)
        return max((like, -old, -new) for new, others in self._near.items() for old, like in others.items())[2] * -1

    def _evict(self, chunk: int, bank: KVBank) -> None:
        del self._near[chunk]
        for others in self._near.values():
            others.pop(chunk, None)
        self.likeness.forget(chunk)
        for frame in filter(bank.rows, range(chunk * self._size, (chunk + 1) * self._size)):
            bank.drop(frame)
