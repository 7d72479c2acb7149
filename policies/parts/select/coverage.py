"""Order by what each chunk adds to the view that is covered already."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from harness.datatypes import Chunk
from harness.settings.ranges import Share
from policies.parts.select.base import by_score
from policies.parts.select.frustum import FrustumSelector
from policies.parts.select.probe_points import blocks

TOGETHER = 64  # kinds that are looked at at once
NEAR = 1e-3  # gains that float32 may have put in the wrong order


@dataclass
class CoverageSelector(FrustumSelector):
    """Greedy residual coverage (WorldMem, arXiv 2504.12369, removes covered points after each pick; CovRAG, arXiv 2606.02479,
    picks the frame that covers most of what is left): near-duplicates of a view stop counting once one is chosen.

    Probe points of all views of the next chunk; sink and recent frames cover first. Every further view of a point is worth
    `again` times the one before, so that 0 is pure set cover and 1 counts overlap alone; where nothing is gained, overlap
    decides. The value is monotone and submodular: greedy is within 1 - 1/e of the best set of its size.

    Simplified: both sources are pure set cover (again=0); the 0.5 of the bench is a first guess of ours. CovRAG covers surfaces of known depth, WorldMem
    subtracts the age of a view; neither is done here.
    """

    again: Share = 0.5

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterator[int]:
        if not candidates:
            return
        groups = self.kinds(candidates)
        kinds = groups.lists()
        powers = self.again ** np.arange(self._size + 1, dtype=np.float64)
        closely = _Closely(self, chunk, groups.firsts, np.concatenate([[0.0], powers[:-1].cumsum()]))
        left = self.again ** self.seen(chunk, window).sum(0).flatten().double().numpy()  # worth of the next view of each point
        while (best := closely.best(left, kinds)) is not None:
            yield kinds[best].pop(0)
            left *= powers[closely.views(best)]
        yield from by_score([closely.overlap(i) for i, kind in enumerate(kinds) for _ in kind], [c for kind in kinds for c in kind])


class _Closely:
    """Which kind gains most, where only those are looked at closely that may be the best. A bound is known of all: blocks of probe points that a
    frame surely does not see (`FrustumSelector.may_see`) count as unseen, all others as seen."""

    def __init__(self, selector: FrustumSelector, chunk: Chunk, firsts: Int[np.ndarray, "c"], worths: Float[np.ndarray, "n"]) -> None:
        """worths: of so many views of a fresh point."""
        self._selector, self._chunk, self._firsts = selector, chunk, firsts
        block = blocks(selector.grid, selector.shells)[1]
        self._block = (block + (block.max() + 1) * np.arange(len(chunk.c2w))[:, None]).flatten()  # of every point of every view
        frames = selector.may_see(chunk, firsts.tolist()).numpy().sum(1, dtype=np.uint8)  # c b: that may see any point of a block
        self._worths, self._most, self._able = worths, worths[frames], frames.any(1)
        self._row = np.full(len(firsts), -1)  # of each kind among those that were looked at
        self._kinds = np.zeros(0, int)
        self._views = np.zeros((0, len(self._block)), np.uint8)
        self._about = self._views.astype(np.float32)

    def best(self, left: Float[np.ndarray, "p"], kinds: list[list[int]]) -> int | None:
        """The kind that gains most, ties to the larger overlap, then to the older chunk; None where none gains anything. left: what the next view of
        a point is worth. kinds: the chunks that are left of each."""
        there = np.fromiter(map(len, kinds), int, len(kinds)) > 0
        bounds = np.where(there & self._able & (self._row < 0), self._most @ np.bincount(self._block, left), -1.0)
        while True:
            gains = np.where(there[self._kinds], self._about @ left.astype(np.float32), -1.0)
            most = gains.max(initial=0.0)
            if not len(waiting := np.flatnonzero(bounds >= max(0.0, most - NEAR))):
                break
            self._look_at(waiting[np.argsort(-bounds[waiting], kind="stable")[:TOGETHER]])
            bounds[self._kinds] = -1.0
        near = self._kinds[gains > most - NEAR].tolist()  # which of them is decided in float64
        exact = (self._worths[self._views[self._row[near]]] @ left).round(6).tolist()
        gain, *_, best = max(((g, self.overlap(i), -kinds[i][0], i) for g, i in zip(exact, near, strict=True) if kinds[i]), default=(0.0, None))
        return best if gain else None

    def _look_at(self, some: Int[np.ndarray, "k"]) -> None:
        seen = self._selector.views(self._chunk, self._firsts[some].tolist()).view(torch.uint8).sum(1, dtype=torch.uint8).flatten(1).numpy()
        self._row[some] = np.arange(len(self._kinds), len(self._kinds) + len(some))
        self._kinds, self._views = np.concatenate([self._kinds, some]), np.concatenate([self._views, seen])
        self._about = np.concatenate([self._about, self._worths.astype(np.float32)[seen]])

    def views(self, kind: int) -> UInt8[np.ndarray, "p"]:
        """How many frames of a kind that was the best see each point."""
        return self._views[self._row[kind]]

    def overlap(self, kind: int) -> int:
        """Points that a kind's frames see, each as often as it is seen. Kinds that were never looked at see none, once nothing is left to gain."""
        return int(self.views(kind).sum(dtype=np.int64)) if self._row[kind] >= 0 else 0
