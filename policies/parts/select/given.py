"""Only what was given to the model comes back."""

from dataclasses import dataclass

from harness.datatypes import KV, Chunk, Geometry
from policies.parts.select.base import Selector, SelectorWrapper


@dataclass
class GivenSelector(SelectorWrapper):
    """Around any selector: of the banked chunks only those that were given to the model are candidates, as the inner selector orders them.

    A control. First sightings are often the given, clean ones, so that a memory which prefers them may gain because it is old, because
    it never drifted, or because scores compare with it; here nothing else comes back. What the model made itself is
    unreachable once it has left the recent window, and reported so, although the bank holds it. Under
    `world.protocol=free` one chunk is given.
    """

    inner: Selector

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self._given: set[int] = set()

    def observe(self, chunk: Chunk, kv: KV) -> None:
        super().observe(chunk, kv)
        if kv.given:
            self._given.add(chunk.index)

    def eligible(self, candidates: list[int]) -> list[int]:
        return [c for c in super().eligible(candidates) if c in self._given]

    def forget(self, chunk: int) -> None:
        super().forget(chunk)
        self._given.discard(chunk)
