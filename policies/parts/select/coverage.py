"""Order by what each chunk adds to the view that is covered already."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from harness.datatypes import Chunk
from harness.settings.ranges import Share
from policies.parts.select.base import by_score
from policies.parts.select.frustum import FrustumSelector, Sight
from policies.parts.select.kinds import Kinds
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
        kinds = self.kinds(candidates)
        powers = self.again ** np.arange(self._size + 1, dtype=np.float64)
        sight = self.sight(chunk, kinds.firsts.tolist())
        closely = _Closely(sight, np.concatenate([[0.0], powers[:-1].cumsum()]))
        left = self.again ** self.seen(sight.points, window).sum(0).flatten().double().numpy()  # worth of the next view of each point
        while (best := closely.best(left, kinds)) is not None:
            yield kinds.take(best)
            if kinds.used_up(best):
                closely.used_up(best)
            left *= powers[closely.views(best)]
        rest = [(closely.overlap(i), c) for i in range(len(kinds)) for c in kinds.members(i)]
        yield from by_score([overlap for overlap, _ in rest], [c for _, c in rest])


class _Closely:
    """Which kind gains most, where only those are looked at closely that may be the best. A bound is known of all: blocks of probe points that a
    frame surely does not see (`Sight.may_see`) count as unseen, all others as seen."""

    def __init__(self, sight: Sight, worths: Float[np.ndarray, "n"]) -> None:
        """sight: of a chunk of each kind. worths: of so many views of a fresh point."""
        block = blocks(sight.grid, sight.shells)[1]
        views, points = len(sight.points), len(sight.points) * len(block)
        self._sight, self._block = sight, (block + (block.max() + 1) * np.arange(views)[:, None]).flatten()  # of every point of every view
        frames = sight.may_see().numpy().sum(1, dtype=np.uint8)  # c b: that may see any point of a block
        self._worths, self._most = worths, worths[frames]
        self._open = frames.any(1)  # kinds that may gain and were not looked at
        self._views: dict[int, np.ndarray] = {}  # of those that were: how many frames see each point
        self._kinds, self._there = np.zeros(0, int), np.zeros(0, bool)  # the same in a row, and whether any chunk of theirs is left
        self._about = [np.zeros((0, points), np.float32)]  # what so many views of fresh points are worth, as they were looked at together

    def best(self, left: Float[np.ndarray, "p"], kinds: Kinds) -> int | None:
        """The kind that gains most, ties to the larger overlap, then to the older chunk; None where none gains anything. left: what the next view of
        a point is worth."""
        bounds = np.where(self._open, self._most @ np.bincount(self._block, left), -1.0)
        roughly = left.astype(np.float32)
        gains = np.concatenate([about @ roughly for about in self._about])
        while True:
            most = gains[self._there].max(initial=0.0)
            if not len(waiting := np.flatnonzero(bounds >= max(0.0, most - NEAR))):
                break
            some = waiting[np.argsort(-bounds[waiting], kind="stable")[:TOGETHER]]
            self._look_at(some)
            bounds[some] = -1.0
            gains = np.concatenate([gains, self._about[-1] @ roughly])
        near = self._kinds[self._there & (gains > most - NEAR)].tolist()  # which of them is decided in float64
        exact = (self._worths[np.array([self.views(i) for i in near])] @ left).round(6).tolist() if near else []
        gain, *_, best = max(((g, self.overlap(i), -kinds.first(i), i) for g, i in zip(exact, near, strict=True)), default=(0.0, None))
        return best if gain else None

    def _look_at(self, some: Int[np.ndarray, "k"]) -> None:
        seen = np.add.reduce(self._sight.views(some).flatten(2).numpy().view(np.uint8), 1, dtype=np.uint8)
        self._views.update(zip(some.tolist(), seen, strict=True))
        self._kinds, self._there = np.concatenate([self._kinds, some]), np.concatenate([self._there, np.ones(len(some), bool)])
        self._open[some] = False
        self._about.append(self._worths.astype(np.float32).take(seen))

    def used_up(self, kind: int) -> None:
        """No chunk of a kind that was the best is left."""
        self._there[self._kinds == kind] = False

    def views(self, kind: int) -> UInt8[np.ndarray, "p"]:
        """How many frames of a kind that was looked at see each point."""
        return self._views[kind]

    def overlap(self, kind: int) -> int:
        """Points that a kind's frames see, each as often as it is seen. Kinds that were never looked at see none, once nothing is left to gain."""
        return int(self.views(kind).sum(dtype=np.int64)) if kind in self._views else 0
