"""Order by shared field of view."""

from dataclasses import dataclass

from harness.datatypes import Chunk
from policies.parts.select.base import by_score
from policies.parts.select.frustum import FrustumSelector


@dataclass
class FovSelector(FrustumSelector):
    """Frustum overlap, the selector of Context-as-Memory (arXiv 2506.03141) and HY-WorldPlay (arXiv 2512.14614, whose code
    tests 50,000 points in a ball around the camera): the share of a view's probe points that an earlier view sees too.

    A chunk's score is the mean, over all views of the next chunk, of its best view's share. mutual: take the smaller of
    the shares in both directions, so that a view from far behind, which sees everything small, counts less; the
    published methods count one direction. Uncertain: how the papers weigh several poses of a chunk (mean here) and the
    scale of their scenes (`far`).
    """

    mutual: bool = False

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        if not candidates:
            return []
        kinds = self.kinds(candidates)
        share = self.views(chunk, [kind[0] for kind in kinds]).float().mean(-1)  # c v f
        if self.mutual:
            share = share.minimum(self.back(chunk, [kind[0] for kind in kinds]))
        scores = share.amax(1).mean(1).double().round(decimals=6).tolist()
        of = {c: score for kind, score in zip(kinds, scores, strict=True) for c in kind}
        return by_score([of[c] for c in candidates], candidates)
