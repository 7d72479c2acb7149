"""Best first, where a bound is known of all and the exact score is dear."""

import heapq
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

TOGETHER = 32  # scores that are computed at a time
SLACK = 1e-5  # by which a bound, a sum in another order, may be below the score that it bounds


def best_first(bounds: Float[np.ndarray, "k"], score: Callable[[list[int]], Sequence[float]], members: Callable[[int], Sequence[int]]) -> Iterator[int]:
    """The members of all kinds by falling score, ties by number. A kind is scored only once its bound is no lower than the best score that
    is known and not yet given.

    bounds: which no kind's score exceeds. score: of several kinds. members: of a kind, if it has any left.
    """
    order, known = np.argsort(-bounds, kind="stable").tolist(), 0
    heap: list[tuple[float, int]] = []
    while heap or known < len(order):
        while known < len(order) and (not heap or bounds[order[known]] + SLACK >= -heap[0][0]):
            some = order[known : known + TOGETHER]
            for kind, worth in zip(some, score(some), strict=True):
                for member in members(kind):
                    heapq.heappush(heap, (-worth, member))
            known += len(some)
        if heap:
            yield heapq.heappop(heap)[1]
