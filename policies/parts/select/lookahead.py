"""Order by the views of several chunks to come."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from harness.datatypes import Chunk, Geometry
from harness.settings.ranges import Count
from policies.parts.select.base import Selector, SelectorWrapper


@dataclass
class LookaheadSelector(SelectorWrapper):
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
        super().reset(geometry)
        if self.sees_truth or self.tries:
            raise ValueError(f"lookahead: what {type(self.inner).__name__} looks at is not known ahead; use another selector.inner (pose, fov, coverage)")
        self._size = geometry.chunk
        self._later: Iterator[int] | None = None  # what the chunks after the next want; only until it is asked for

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
