"""A field of summaries: a fixed number of slots at fixed positions, into which everything that leaves is averaged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Count, Natural
from policies.ema import averaged
from policies.parts.concatenated import unit


@dataclass
class FieldPolicy(CachePolicy):
    """Our reading of WorldTrace's Field writer (NVIDIA SIL, arXiv 2608.07408): recent frames, and slots of a frame each that hold averages of
    what left, at positions that stay within the trained range. Keys are averaged in canonical form, before RoPE, so that when a frame was seen
    does not matter. `landmark` is the other writer.

    A frame that leaves the recent ones takes a free slot. Once none is free, of the slots and the newcomer those two become one that are
    most alike, by the cosine of their mean canonical keys over all layers and heads (ties to the first slots), in the slot of the first;
    the newcomer takes what is free then. Two of m and n frames become, place by place of the image, the mean of all m + n. Positions: sink
    from 0, slot i at sink + i, then recent frames, then the chunk, always at sink + slots + recent.

    Averaged frames count as unreachable, but for one a slot, under whose number it is kept. Averages are taken in float32 and kept in the cache's precision; a
    lossy codec of the store rounds them at every step.
    Uncertain: the project page gives neither the rule by which frames are aggregated, nor sizes, nor whether there is a sink. Where places
    differ in position (the `rooms` model rotates by the direction of view) positions average too, without regard to the turn of
    an angle.
    """

    slots: Count = 9  # frames
    sink: Natural = 3
    recent: Natural = 3
    raw_keys = pooled = True
    rewritable = False

    def reset(self, geometry: Geometry) -> None:
        self._tokens, self._ranks, self._next = geometry.tokens, geometry.ranks, self.sink
        self._founders: list[int] = []  # frame under which each slot is kept
        self._joined: list[int] = []  # frames that each slot is the mean of
        self._means: list[Tensor] = []  # their mean key, l h d
        self._fresh: dict[int, Tensor] = {}  # frame that has not left yet -> its mean key

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        end = self.sink + self.slots + self.recent
        place = {f: f for f in range(min(self.sink, chunk.start))}
        place |= {f: self.sink + slot for slot, f in enumerate(self._founders)}
        place |= {f: end + f - chunk.start for f in range(max(self.sink, chunk.start - self.recent), chunk.start)}
        return Plan(tuple(place), tuple(map(float, place.values())), float(end))

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        keys = kv.k_raw.unflatten(2, (-1, self._tokens)).float().mean((1, 3))  # l f h d
        self._fresh |= dict(zip(chunk.frames, keys.unbind(1), strict=True))
        while self._next <= chunk.frames[-1] - self.recent:
            self._take_in(self._next, bank)
            self._next += 1

    def _take_in(self, frame: int, bank: KVBank) -> None:
        self._founders.append(frame)
        self._joined.append(1)
        self._means.append(self._fresh.pop(frame))
        if len(self._founders) > self.slots:
            first, second = self._most_alike()
            self._merge(first, second, bank)
            for table in (self._founders, self._joined, self._means):  # the newcomer takes the place of the one that is gone
                table[second] = table[-1]
                del table[-1]

    def _most_alike(self) -> tuple[int, int]:
        means = unit(torch.stack(self._means).flatten(1), self._ranks)
        like = self._ranks.sum(means @ means.mT)
        pairs = torch.ones_like(like, dtype=torch.bool).triu(1)
        return divmod(int(like.masked_fill(~pairs, -torch.inf).argmax()), len(means))

    def _merge(self, first: int, second: int, bank: KVBank) -> None:
        """The second slot's frames join those of the first."""
        founder, other = self._founders[first], self._founders[second]
        share = self._joined[second] / (self._joined[first] + self._joined[second])
        bank.write(founder, averaged(founder, bank.page(founder), bank.page(other), share))
        bank.drop(other)
        self._joined[first] += self._joined[second]
        self._means[first] = torch.lerp(self._means[first], self._means[second], share)
