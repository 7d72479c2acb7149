"""Keep what is stored spread over what was seen."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from harness.datatypes import KV, Chunk, Geometry
from policies.parts.evict.base import Eviction
from policies.parts.likeness import Likeness


@dataclass
class Alike(Eviction):
    """Of the two chunks with the greatest likeness l(a, b) (mutual view overlap, see `policies.parts.likeness`; ties to the older pair) the newer goes:
    the k-centre control of Keepsake (arXiv 2610.06588) by removals, one at a time, not the greedy farthest-first choice that k-centre is often computed by.

    Uncertain: whether Keepsake's k-centre is greedy or by removals (as here), and over views (as here) or over features.
    """

    likeness: Likeness

    def reset(self, geometry: Geometry) -> None:
        self.likeness.reset(geometry)
        self._chunks: list[int] = []  # that were idle once and are not gone
        self._likes = np.zeros((0, 0))  # of each to each

    def observe(self, chunk: Chunk, kv: KV, used: Collection[int]) -> None:
        self.likeness.observe(chunk, kv)

    def gone(self, chunk: int) -> None:
        self.likeness.forget(chunk)
        if chunk in self._chunks:
            at = self._chunks.index(chunk)
            self._chunks.remove(chunk)
            self._likes = np.delete(np.delete(self._likes, at, 0), at, 1)

    def next(self, idle: Collection[int]) -> int:
        for new in sorted(set(idle).difference(self._chunks)):
            self._likes = np.pad(self._likes, (0, 1))
            self._likes[-1, :-1] = self._likes[:-1, -1] = self.likeness.to(new, self._chunks)
            self._chunks.append(new)
        chunks, places = sorted(idle), {chunk: at for at, chunk in enumerate(self._chunks)}
        at = [places[c] for c in chunks]
        pairs = np.triu(self._likes[np.ix_(at, at)] + 1.0, 1)  # an older one by a newer one; what is no pair is 0
        return chunks[int(pairs.argmax()) % len(chunks)]
