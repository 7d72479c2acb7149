"""A placement says where RoPE puts the rows of the window."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from policies.parts.compress.base import Compressor


class Placement(ABC):
    """moves: whether rows leave their own temporal position, so that the bank must keep un-rotated keys.
    by_similarity: whether retrieved chunks come in the selector's order and not in temporal order. rigid: whether a chunk's frames keep their
    distances, so that a page that holds rows of several can be placed."""

    moves: bool
    rigid: bool = True
    by_similarity: bool

    def check(self, compressor: Compressor) -> None:
        """Raises ValueError for a compressor whose pages it cannot place."""
        if compressor.joint and not self.rigid:
            kind, mine = type(compressor).__name__, type(self).__name__
            raise ValueError(f"retrieval: {kind} makes one page of a chunk, and {mine} gives each frame its own position; use placement=rebased or absolute")

    @abstractmethod
    def times(self, sink: list[int], retrieved: list[list[int]], recent: list[int], start: int, size: int) -> tuple[float, ...] | None:
        """Temporal positions of the window's pages in the order sink, retrieved, recent; None keeps their own.

        start: first frame of the chunk to come. size: frames of a chunk.
        """


@dataclass
class Absolute(Placement):
    """Every row keeps the position at which it was generated: the default of WorldKV's released code. Uncertain: where the paper itself places
    what comes back; the policies `worldkv_rebased` and `worldkv_slot` try other places."""

    moves = False
    by_similarity = False

    def times(self, sink: list[int], retrieved: list[list[int]], recent: list[int], start: int, size: int) -> None:
        return None


@dataclass
class Rebased(Placement):
    """Retrieved chunks are moved to directly before the recent ones, a chunk's frames keeping their distances.

    order: time (older chunks farther away) or similarity (the released code's flag: the closest view is placed
    farthest). sink: also move the sink, to directly before the retrieved chunks; the released code leaves it at 0.
    """

    order: Literal["time", "similarity"] = "time"
    sink: bool = True
    moves = True

    def __post_init__(self) -> None:
        self.by_similarity = self.order == "similarity"

    def times(self, sink: list[int], retrieved: list[list[int]], recent: list[int], start: int, size: int) -> tuple[float, ...]:
        first = (recent[0] if recent else start) - len(retrieved) * size
        times = [float(f) + (first - len(sink) if self.sink else 0) for f in sink]
        for slot, frames in enumerate(retrieved):
            times += [float(first + slot * size + f - frames[0]) for f in frames]
        return tuple(times + [float(f) for f in recent])
