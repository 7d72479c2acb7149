"""Which frames a window shows in any case, which chunks may come back, and what they cost: whole numbers throughout."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import floor, inf

from jaxtyping import Int
from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import Geometry

UNITS = ("equivalents", "frames", "tokens", "bytes")


@dataclass(frozen=True)
class Window:
    """`sink` first frames and `recent` newest ones, in chunks of `size`; the `blind` frames before the recent ones can never be
    chosen. None of them need be whole chunks: of a chunk that the sink or the recent frames reach into, the other frames count."""

    sink: int
    recent: int
    size: int
    blind: int = 0

    def fixed(self, start: int) -> tuple[list[int], list[int]]:
        """The sink's and the recent frames of a chunk that starts at frame `start`."""
        return list(range(min(self.sink, start))), list(range(max(self.sink, start - self.recent), start))

    def past(self, start: int) -> range:
        """The frames in between."""
        return range(self.sink, max(self.sink, start - self.recent - self.blind))

    def chunks(self, start: int) -> range:
        """Chunks with frames in between."""
        past = self.past(start)
        return range(past.start // self.size, -(-past.stop // self.size) if past else past.start // self.size)

    def reachable(self, start: int, candidates: list[int]) -> frozenset[int]:
        """The frames in between that could come back if these chunks can."""
        past, able = self.past(start), set(candidates)
        return frozenset(past) if len(able) == len(self.chunks(start)) else frozenset(f for f in past if f // self.size in able)

    def part(self, chunk: int, start: int) -> range:
        """The frames in between of a chunk."""
        past = self.past(start)
        return range(max(past.start, chunk * self.size), min(past.stop, (chunk + 1) * self.size))

    def pages(self, chunk: int, start: int, bank: KVBank) -> list[int]:
        """Those of them that the bank has; a compressor may have joined some."""
        return [f for f in self.part(chunk, start) if bank.rows(f)]

    def leaving(self, chunk: int) -> int:
        """The newest chunk of which the sink or recent frames of the chunk after `chunk` show nothing."""
        return chunk - -(-(self.recent + self.blind) // self.size)


def limit_of(retrieved: float, unit: str, g: Geometry) -> float:
    """A budget in rows of single heads of single layers (in frames for unit=frames): whole numbers, which sums do not change."""
    if retrieved == inf:
        return inf
    heads = g.layers * g.heads
    share = g.heads / (g.model_heads or g.heads)  # bytes are those of all ranks
    return floor(round(retrieved * {"equivalents": g.tokens * heads, "frames": 1, "tokens": heads, "bytes": heads * share / g.row_bytes}[unit], 6))


def head_rows(frames: Iterable[int], bank: KVBank, parts: Mapping[int, Int[Tensor, "l n *h"]]) -> int:
    """Rows that single heads of single layers hold of `frames`, or take of those in `parts`; absent ones do not count."""
    layers, heads = bank.geometry.layers, bank.geometry.heads

    def of(frame: int) -> int:
        if frame not in parts:
            return round(bank.held(frame) * layers * heads)
        taken = (parts[frame] >= 0).sum().item() * (heads if parts[frame].dim() == 2 else 1)
        return round(taken * bank.held(frame) / bank.rows(frame))  # of heads that hold nothing of the frame, nothing is taken

    return sum(map(of, frames))


def affordable(order: Iterable[int], limit: float, cost: Callable[[int, int], int]) -> list[int]:
    """The longest prefix of `order` whose costs fit the limit. cost: of a chunk, and its place in the order."""
    chosen: list[int] = []
    for chunk in order:
        limit -= cost(chunk, len(chosen))
        if limit < 0:
            break
        chosen.append(chunk)
    return chosen
