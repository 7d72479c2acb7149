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

    def __len__(self) -> int:
        return len(self.firsts)

    def members(self, kind: int) -> list[int]:
        """Those that were not taken."""
        return self._sorted[self._starts[kind] : self._stops[kind]].tolist()

    def first(self, kind: int) -> int:
        """The first that was not taken."""
        return int(self._sorted[self._starts[kind]])

    def take(self, kind: int) -> int:
        """Take the first one."""
        first, self._starts[kind] = self.first(kind), self._starts[kind] + 1
        return first

    def used_up(self, kind: int) -> bool:
        return bool(self._starts[kind] == self._stops[kind])
