"""Chunks whose cameras are the same, which are looked at once."""

import numpy as np
from jaxtyping import Int


class Kinds:
    """Candidates in groups of equal labels, the groups in the order of their first members."""

    def __init__(self, candidates: Int[np.ndarray, "c"], labels: Int[np.ndarray, "c"]) -> None:
        order = labels.argsort(kind="stable")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(labels[order])) + 1])
        firsts = candidates[order[starts]]
        rank = firsts.argsort(kind="stable")
        self._sorted, self._starts = candidates[order], starts[rank]
        self._stops = np.append(starts[1:], len(order))[rank]
        self.firsts = firsts[rank]

    def members(self, kind: int) -> list[int]:
        return self._sorted[self._starts[kind] : self._stops[kind]].tolist()

    def lists(self) -> list[list[int]]:
        """The members of every kind."""
        whole = self._sorted.tolist()
        return [whole[a:b] for a, b in zip(self._starts.tolist(), self._stops.tolist(), strict=True)]
