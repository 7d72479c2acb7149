"""A bank that grows with explored space, not with time."""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Ge, Limit
from policies.parts.likeness import Likeness
from policies.parts.wrapped import check_retrieves, settled


@dataclass
class PlacesPolicy(PolicyWrapper):
    """At most `members` chunks a place: EpiCache's budget for each episode (arXiv 2509.17396), with places of the world in the
    stead of clusters of a conversation. Around any policy that retrieves: its own selector, compressor and placement stand.

    A chunk is settled once it is neither sink nor recent, whether or not the inner policy may choose it. It joins
    the place p with the greatest likeness l(chunk, founder of p), if l > theta, and else founds a place; likeness is mutual
    view overlap in [0, 1] (see `policies.parts.likeness`). Of a full place the newest chunk goes (keep=first: what was seen first
    has drifted least) or the oldest (keep=newest: edits are kept); founders' views stay what a place is compared with,
    so that places do not wander. places: more of them than this, and the one least recently seen (joined or founded) goes
    with all its chunks. theta=inf or members=inf drops nothing.

    A dropped chunk is unreachable, and reported so, although its place may have a chunk that shows nearly the same. Uncertain: EpiCache clusters embeddings
    by k-means with the whole past at hand and keeps what is nearest to a medoid, in blocks of tokens; online, by geometry and by chunk is our reading."""

    inner: CachePolicy
    likeness: Likeness
    theta: Limit = 0.85
    members: Annotated[Limit, Ge(1)] = 1
    keep: Literal["first", "newest"] = "first"
    places: Annotated[Limit, Ge(1)] = inf

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        check_retrieves(self.inner, "places")
        self.likeness.reset(geometry)
        self._size, self._last = geometry.chunk, -1
        self._fresh: list[int] = []  # chunks that became candidates and belong to no place yet
        self._places: dict[int, list[int]] = {}  # founder -> chunks that are kept, the place least recently seen first

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = super().plan(chunk, bank)
        self._fresh = settled(plan, self._last, chunk.start, self._size)
        return plan

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        super().commit(chunk, kv, bank)
        self.likeness.observe(chunk, kv)
        for fresh in self._fresh:
            self._settle(fresh, bank)
            self._last = fresh

    def _settle(self, chunk: int, bank: KVBank) -> None:
        banked = {f // self._size for f in bank.frames}
        for founder in [f for f, members in self._places.items() if not banked.issuperset(members)]:  # a wrapper forgot some
            self._places[founder] = [c for c in self._places[founder] if c in banked]
            if not self._places[founder]:
                del self._places[founder]
                self.likeness.forget(founder)
        founders = sorted(self._places)
        like = self.likeness.to(chunk, founders, self.theta)
        best = max(range(len(founders)), key=lambda i: (like[i], -i), default=None)
        if best is not None and like[best] > self.theta:
            founder = founders[best]
            members = [*self._places.pop(founder), chunk]
            self.likeness.forget(chunk)
            if len(members) > self.members:
                self._drop(members.pop(-1 if self.keep == "first" else 0), bank)
            self._places[founder] = members
            return
        self._places[chunk] = [chunk]
        if len(self._places) > self.places:
            oldest = next(iter(self._places))
            self.likeness.forget(oldest)
            for member in self._places.pop(oldest):
                self._drop(member, bank)

    def _drop(self, chunk: int, bank: KVBank) -> None:
        for frame in range(chunk * self._size, (chunk + 1) * self._size):
            if bank.rows(frame):
                bank.drop(frame)
