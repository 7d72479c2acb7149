"""Order by what each chunk adds to the view that is covered already."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from harness.datatypes import Chunk
from harness.settings.ranges import Share
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

    again: Share = 0.5

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterator[int]:
        if not candidates:
            return
        groups = self.kinds(candidates)
        kinds = groups.lists()
        views = self.views(chunk, groups.firsts.tolist()).view(torch.uint8).sum(1, dtype=torch.uint8).flatten(1).numpy()  # c p
        powers = self.again ** np.arange(self._size + 1, dtype=np.float64)
        worths = np.concatenate([[0.0], powers[:-1].cumsum()])  # of so many views of a fresh point
        about, overlaps = np.take(worths.astype(np.float32), views, mode="clip"), views.sum(1, dtype=np.int64).tolist()
        left = self.again ** self.seen(chunk, window).sum(0).flatten().double().numpy()  # worth of the next view of each point
        gone: list[int] = []  # kinds of which no chunk is left
        while len(gone) < len(kinds):
            gain = about @ left.astype(np.float32)
            gain[gone] = -1.0
            near = np.flatnonzero(gain > gain.max() - 1e-3).tolist()  # the greatest is among them; which, is decided in float64
            exact = (worths[views[near]] @ left).round(6).tolist()
            best = max((g, overlaps[i], -kinds[i][0], i) for g, i in zip(exact, near, strict=True))
            if not best[0]:
                break
            yield kinds[best[3]].pop(0)
            if not kinds[best[3]]:
                gone.append(best[3])
            left *= powers[views[best[3]]]
        yield from by_score([overlaps[i] for i, kind in enumerate(kinds) for _ in kind], [c for kind in kinds for c in kind])
