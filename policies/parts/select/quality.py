"""Order by what the model really makes of the chunks: an estimate, from below, of what a selector could gain."""

from collections.abc import Iterator
from dataclasses import dataclass

from harness.datatypes import Chunk, Geometry
from harness.settings.ranges import Count
from policies.parts.select.controls import OracleSelector


@dataclass
class QualitySelector(OracleSelector):
    """Greedy by a one-step look at the truth: at each place in the order the chunk with which, beside the window and those before it, the model's
    first guess (one pass from pure noise) comes nearest to the true views.

    It tries the first `pool` chunks of `oracle`'s order, the others follow in that order. Where `oracle` bounds how much of a view can be
    covered, this bounds what a selector can gain: what the model cannot make use of does not count. Not an upper bound to the letter: it is greedy,
    its guess comes before the other passes, and a trial places the chunks' rows where they were made, whatever the policy's placement is.

    For a budget of n chunks about n * `pool` passes of the network a generated chunk. Chunks whose truth is unknown, and those that are
    given, whatever is retrieved for them, are planned as `oracle` does. Raises ValueError at `reset` where several ranks share a rollout.
    """

    tries = True
    pool: Count = 8

    def reset(self, geometry: Geometry) -> None:
        geometry.check_alone("the selector `oracle_quality`")
        self._size = geometry.chunk

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterator[int]:
        covering = super().order(chunk, candidates, window)
        if chunk.trial is None:
            yield from covering
            return
        rest = list(covering)
        pool, rest = rest[: self.pool], rest[self.pool :]
        chosen: list[int] = []
        while pool:
            quality = {c: chunk.trial(self._frames([*chosen, c], window)) for c in pool}
            chosen.append(max(pool, key=lambda c: (round(quality[c], 6), -c)))
            pool.remove(chosen[-1])
            yield chosen[-1]
        yield from rest

    def _frames(self, chunks: list[int], window: list[int]) -> list[int]:
        """The window with these chunks, in temporal order."""
        return sorted({*window, *(f for c in chunks for f in range(c * self._size, (c + 1) * self._size))})
