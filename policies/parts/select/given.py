"""Only what was given to the model comes back."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry, Site
from policies.parts.select.base import Selector


@dataclass
class GivenSelector(Selector):
    """Around any selector: of the banked chunks only those that were given to the model are candidates, as the inner selector orders them.

    A control. First sightings are often the given, clean ones, so that a memory which prefers them may gain because it is old, because
    it never drifted, or because scores compare with it; here nothing else comes back. What the model made itself is
    unreachable once it has left the recent window, and reported so, although the bank holds it. Under
    `world.protocol=free` one chunk is given.
    """

    inner: Selector

    def reset(self, geometry: Geometry) -> None:
        self.inner.reset(geometry)
        self.probes, self.needs_attention_scores = self.inner.probes, self.inner.needs_attention_scores
        self._given: set[int] = set()

    def observe(self, chunk: Chunk, kv: KV) -> None:
        self.inner.observe(chunk, kv)
        if kv.given:
            self._given.add(chunk.index)

    def eligible(self, candidates: list[int]) -> list[int]:
        return [c for c in self.inner.eligible(candidates) if c in self._given]

    def forget(self, chunk: int) -> None:
        self.inner.forget(chunk)
        self._given.discard(chunk)

    def look(self, q: Tensor, site: Site) -> None:
        self.inner.look(q, site)

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterable[int]:
        return self.inner.order(chunk, candidates, window)

    def takers(self, candidates: list[int], count: int) -> dict[int, Tensor]:
        return self.inner.takers(candidates, count)

    def soon(self, count: int) -> list[int]:
        return self.inner.soon(count)
