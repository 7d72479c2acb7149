"""Fixed positions for what comes back."""

from dataclasses import dataclass
from typing import Literal

from harness.settings.ranges import Count
from policies.parts.place.base import Placement


@dataclass
class Slot(Placement):
    """Retrieved frames stand `distance` frames before the recent ones, wherever they come from, so that no temporal offset
    leaves the trained range.

    slots: `one` (every retrieved frame at the same position: LongLive-RAG, arXiv 2606.02553, whose code rotates all of
    them at time 0 of a re-numbered window) or `each` (one position a chunk, counting backwards from there: our reading of
    WorldTrace's in-range summary slots, of which no code is public). order: for `each`, time (older farther away) or
    similarity (the closest view nearest). sink: move the sink too, to directly before the farthest slot.
    """

    slots: Literal["one", "each"] = "one"
    distance: Count = 3
    order: Literal["time", "similarity"] = "time"
    sink: bool = True
    moves = True
    rigid = False

    def __post_init__(self) -> None:
        self.by_similarity = self.order == "similarity"

    def times(self, sink: list[int], retrieved: list[list[int]], recent: list[int], start: int, size: int) -> tuple[float, ...]:
        nearest = (recent[0] if recent else start) - self.distance
        back = range(len(retrieved)) if self.by_similarity else range(len(retrieved) - 1, -1, -1)
        slots = [nearest - (n if self.slots == "each" else 0) for n in back]
        first = min(slots, default=nearest + 1) - len(sink)
        times = [float(f + first if self.sink else f) for f in sink]
        for slot, frames in zip(slots, retrieved, strict=True):
            times += [float(slot)] * len(frames)
        return tuple(times + [float(f) for f in recent])
