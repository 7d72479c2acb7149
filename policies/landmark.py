"""Landmarks: what is new gets one of a fixed number of slots, at a fixed position."""

from dataclasses import dataclass
from typing import Annotated

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Count, Ge, Natural
from policies.parts.likeness import Likeness
from policies.parts.window import Window


@dataclass
class LandmarkPolicy(CachePolicy):
    """Our reading of WorldTrace's Landmark writer (NVIDIA SIL project page, 2026, arXiv 2608.07408): recent frames, and slots that hold verbatim
    traces of scenes at positions that stay within the trained range. Nothing is selected: every slot is attended to.

    A chunk that leaves the recent frames is a landmark if its likeness (mutual view overlap, or likeness of content where there are
    no poses, see `policies.parts.likeness`) to every landmark and to the sink is at most theta; else it is dropped and the one it
    resembles most counts as seen. There are frames // chunk slots. A landmark takes the first free one. When all are used it takes that of the most redundant
    landmark: of greatest likeness to any other, to the sink or to the newcomer; of equals, the one least recently seen. A chunk
    that the sink reaches into is no landmark: its other frames go when it leaves the recent ones. Positions: sink from 0, slot i at
    sink + i * chunk, then recent frames, then the chunk, always at sink + slots * chunk + recent, however many slots are used; keys
    are kept un-rotated.

    Uncertain: the page gives neither the test of novelty, nor the rule of replacement, nor sizes; whether there is a sink.
    """

    likeness: Likeness
    frames: Count = 9
    sink: Natural = 3
    recent: Natural = 3
    theta: Annotated[float, Ge(0)] = 0.8
    raw_keys = True

    def reset(self, geometry: Geometry) -> None:
        self.likeness.reset(geometry)
        self._size = geometry.chunk
        if self.frames < self._size:
            raise ValueError(f"landmark: frames={self.frames} is less than a chunk of {self._size}; use frames of at least one")
        self._count = self.frames // self._size
        self._slots: dict[int, int] = {}  # slot -> chunk
        self._seen: dict[int, int] = {}  # slot -> the last chunk that showed it

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        size, end = self._size, self.sink + self._count * self._size + self.recent
        place = {f: f for f in range(self.sink) if f < chunk.start}
        for slot, landmark in sorted(self._slots.items()):
            place |= {landmark * size + i: self.sink + slot * size + i for i in range(size)}
        place |= {f: end + f - chunk.start for f in range(max(self.sink, chunk.start - self.recent), chunk.start)}
        return Plan(tuple(place), tuple(map(float, place.values())), float(end))

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        self.likeness.observe(chunk, kv)
        leaving = Window(self.sink, self.recent, self._size).leaving(chunk.index)
        if leaving * self._size >= self.sink:
            self._settle(leaving, bank)
        elif leaving >= 0:  # the sink shows the rest of it
            self._drop(range(self.sink, (leaving + 1) * self._size), bank)

    def _settle(self, chunk: int, bank: KVBank) -> None:
        sink, slots = list(range(-(-self.sink // self._size))), list(self._slots)
        like = self.likeness.to(chunk, [*sink, *(self._slots[s] for s in slots)])
        best = max(range(len(like)), key=lambda i: (like[i], -i), default=None)
        if best is not None and like[best] > self.theta:
            self._forget(chunk, bank)
            if best >= len(sink):
                self._seen[slots[best - len(sink)]] = chunk
            return
        slot = next((s for s in range(self._count) if s not in self._slots), None)
        if slot is None:
            slot = max(slots, key=lambda s: (self._redundancy(s, [*sink, chunk]), -self._seen[s]))
            self._forget(self._slots[slot], bank)
        self._slots[slot] = self._seen[slot] = chunk

    def _redundancy(self, slot: int, others: list[int]) -> float:
        """The greatest likeness of a landmark to the others."""
        return max(self.likeness.to(self._slots[slot], [*others, *(c for s, c in self._slots.items() if s != slot)]))

    def _forget(self, chunk: int, bank: KVBank) -> None:
        self.likeness.forget(chunk)
        self._drop(range(chunk * self._size, (chunk + 1) * self._size), bank)

    def _drop(self, frames: range, bank: KVBank) -> None:
        for frame in frames:
            bank.drop(frame)
