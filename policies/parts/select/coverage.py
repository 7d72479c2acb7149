"""Order by what each chunk adds to the view that is covered already."""

from dataclasses import dataclass

from harness.datatypes import Chunk, Geometry
from policies.parts.select.base import by_score
from policies.parts.select.frustum import FrustumSelector


@dataclass
class CoverageSelector(FrustumSelector):
    """Greedy residual coverage (WorldMem, arXiv 2504.12369, removes covered points after each pick; CovRAG, arXiv 2606.02479,
    picks the frame that covers most of what is left): near-duplicates of a view stop counting once one is chosen.

    Probe points of all views of the next chunk; sink and recent frames cover first. Every further view of a point is worth
    `again` times the one before, so that 0 is pure set cover and 1 counts overlap alone; where nothing is gained, overlap
    decides. The value is monotone and submodular: greedy is within 1 - 1/e of the best set of its size. Uncertain: CovRAG
    covers surfaces of known depth, WorldMem subtracts the age of a view; neither is done here.
    """

    again: float = 0.5

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        if not 0 <= self.again <= 1:
            raise ValueError(f"coverage selector: again={self.again}; the worth of a further view lies between 0 and 1")

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        if not candidates:
            return []
        count = self.seen(chunk, window).sum(0).flatten().double()  # views of each point so far
        views = self.views(chunk, candidates).sum(1).flatten(1).double()  # c p
        overlap = views.sum(1)
        worth = views if self.again == 1 else (1 - self.again**views) / (1 - self.again)  # of a chunk's views of a fresh point
        left, order = list(range(len(candidates))), []
        while left:
            gain = (worth[left] @ self.again**count).round(decimals=6)
            if not gain.any():
                break
            best = max(zip(gain.tolist(), overlap[left].tolist(), [-i for i in left], strict=True))
            order.append(-int(best[2]))
            left.remove(order[-1])
            count += views[order[-1]]
        return [candidates[i] for i in order] + by_score(overlap[left].tolist(), [candidates[i] for i in left])
