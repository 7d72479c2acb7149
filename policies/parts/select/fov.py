"""Order by shared field of view."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.datatypes import Chunk
from policies.parts.select.frustum import FrustumSelector
from policies.parts.select.lazily import best_first
from policies.parts.select.probe_points import blocks


@dataclass
class FovSelector(FrustumSelector):
    """Frustum overlap, the selector of Context-as-Memory (arXiv 2506.03141) and HY-WorldPlay (arXiv 2512.14614, whose code
    tests 50,000 points in a ball around the camera): the share of a view's probe points that an earlier view sees too.

    A chunk's score is the mean, over all views of the next chunk, of its best view's share. mutual: take the smaller of
    the shares in both directions, so that a view from far behind, which sees everything small, counts less; the
    published methods count one direction. Only chunks that may be among the best are looked at closely: blocks of points which a
    camera surely does not see bound its share.

    Simplified: HY-WorldPlay averages over two frames of each clip of 4 in place of taking a chunk's best, always brings back the first clip, draws its points
    evenly in the ball and looks at them through fixed angles of 60 x 35 degrees; here they lie on rays of the true view, evenly in the logarithm
    of depth. Uncertain: how Context-as-Memory weighs several poses of a chunk (mean here), and the scale of both papers' scenes (`far`).
    """

    mutual: bool = False

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterator[int]:
        if not candidates:
            return iter(())
        kinds = self.kinds(candidates)
        sight = self.sight(chunk, kinds.firsts.tolist())
        sizes = np.bincount(blocks(self.grid, self.shells)[1])
        possible = sight.may_see().unflatten(2, (-1, len(sizes))).numpy()  # c v f b
        bounds = (possible @ (sizes / sizes.sum()).astype(np.float32)).max(1).mean(1)

        def score(some: list[int]) -> list[float]:
            share = sight.views(some).float().mean(-1)  # c v f
            if self.mutual:
                share = share.minimum(self.back(chunk, kinds.firsts[some].tolist()))
            return share.amax(1).mean(1).double().round(decimals=6).tolist()

        return best_first(bounds, score, kinds.members)
