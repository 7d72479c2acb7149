"""Order by the views of several chunks to come."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry, Site
from harness.settings.ranges import Count
from policies.parts.select.base import Selector


@dataclass
class LookaheadSelector(Selector):
    """Around a selector that compares views: it orders chunks by the views of the next chunk and of the `chunks` after it together, so that
    what comes back serves them all and changes less often; and it names those that the later ones alone would take, whose pages
    the store may fetch early (prefetch by what is known of the future, as KVFlow, arXiv 2507.07400, does for agents).

    Assumed: poses are known that far ahead, as along a scripted path; every view counts alike, the next chunk's no more than the last
    one's. Where a path ends, or is led by hand, nothing follows and the inner selector is asked as ever. Selectors that look at
    content instead of poses gain nothing; true co-visibility (`oracle`) is not known ahead, and refused.
    Uncertain: no published video model retrieves so; HY-WorldPlay averages over the poses of one chunk.
    """

    inner: Selector
    chunks: Count = 2

    def reset(self, geometry: Geometry) -> None:
        self.inner.reset(geometry)
        self.probes, self.needs_attention_scores = self.inner.probes, self.inner.needs_attention_scores
        self._size = geometry.chunk
        self._later: Iterator[int] | None = None  # what the chunks after the next want; only until it is asked for

    def observe(self, chunk: Chunk, kv: KV) -> None:
        self.inner.observe(chunk, kv)

    def eligible(self, candidates: list[int]) -> list[int]:
        return self.inner.eligible(candidates)

    def forget(self, chunk: int) -> None:
        self.inner.forget(chunk)

    def look(self, q: Tensor, site: Site) -> None:
        self.inner.look(q, site)

    def takers(self, candidates: list[int], count: int) -> dict[int, Tensor]:
        return self.inner.takers(candidates, count)

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterable[int]:
        longer = chunk.ahead(self.chunks) if chunk.ahead else chunk
        if len(longer.c2w) == self._size:
            return self.inner.order(chunk, candidates, window)
        later = slice(self._size, None)
        coming = replace(longer, c2w=longer.c2w[later], intrinsics=longer.intrinsics[later], actions=longer.actions[later])
        self._later = iter(self.inner.order(coming, candidates, window))
        return self.inner.order(longer, candidates, window)

    def soon(self, count: int) -> list[int]:
        later, self._later = self._later, None
        return [] if later is None else list(islice(later, count))
