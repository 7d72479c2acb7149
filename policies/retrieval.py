"""World Retrieval and World Compression: a retrieval policy composed of a selector, a compressor and a placement."""

from dataclasses import dataclass, field
from math import inf

from torch import Tensor

from harness.bank import KVBank
from harness.policy import CachePolicy
from harness.types import KV, Chunk, Geometry, Plan, Site
from policies.compress.base import Compressor, Into, Kept
from policies.place.base import Placement
from policies.select.base import Selector

UNITS = ("equivalents", "frames", "tokens", "bytes")


@dataclass
class RetrievalPolicy(CachePolicy):
    """WorldKV (arXiv 2605.22718, section 4): sink, retrieved chunks, recent chunks, and the chunk itself.

    A chunk that leaves the recent window is compressed and banked; before each chunk the selector orders the banked
    chunks and as many as fit the budget come back. sink and recent are frames before the chunk. `unit` says what
    `retrieved` counts: frame-equivalents of stored rows, whole frames however compressed, tokens, or bytes over all
    layers. compress: at `store` (rows are dropped) or at `retrieve` (the bank keeps whole chunks and the window takes
    part of them: the same rows, no bytes saved). blind and fallback are the released code's quirks: chunks between recent and candidates that nothing can
    reach, and attending to everything until a first candidate exists.
    """

    selector: Selector
    compressor: Compressor
    placement: Placement
    sink: int = 3
    recent: int = 3
    retrieved: float = 9
    unit: str = "equivalents"
    compress: str = "store"
    blind: int = 0
    fallback: bool = False
    _kept: dict[int, list[Kept]] = field(default_factory=dict, init=False, repr=False)  # chunk -> choice for each slot
    _into: dict[int, Into | None] = field(default_factory=dict, init=False, repr=False)  # chunk -> where the other rows go

    def reset(self, geometry: Geometry) -> None:
        for name in ("sink", "recent", "blind"):
            if (value := getattr(self, name)) < 0 or value % geometry.chunk:
                raise ValueError(f"retrieval: {name}={value} frames is not a whole number of chunks of {geometry.chunk}; use {value - value % geometry.chunk}")
        if self.unit not in UNITS:
            raise ValueError(f"retrieval: unit={self.unit!r}; use one of {', '.join(UNITS)}")
        if self.retrieved < 0:
            raise ValueError(f"retrieval: retrieved={self.retrieved}; give 0 or more (inf for no limit)")
        if self.compress not in ("store", "retrieve"):
            raise ValueError(f"retrieval: compress={self.compress!r}; use store or retrieve")
        self._geometry, self._kept, self._into = geometry, {}, {}
        self.raw_keys = self.placement.moves
        self.selector.reset(geometry)
        self.compressor.reset(geometry)
        if self.compress == "store" and self.compressor.slots > 1:
            raise ValueError("retrieval: compressor.rotate follows the order of retrieval; it needs compress=retrieve")
        if self.compress == "retrieve" and self.compressor.joint:
            raise ValueError("retrieval: compress=retrieve chooses rows frame by frame; use compressor.budget=frame, or compress=store")

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        size = self._geometry.chunk
        sink = [f for f in range(self.sink) if f < chunk.start]
        recent = list(range(max(self.sink, chunk.start - self.recent), chunk.start))
        last = (chunk.start - self.recent - self.blind) // size
        banked = {f // size for f in bank.frames}  # a wrapper may have dropped chunks
        candidates = [c for c in range(self.sink // size, last) if c in banked]
        if self.fallback and not candidates:
            return Plan.of_frames(bank.frames)
        order = self.selector.order(chunk, candidates, [*sink, *recent])
        chosen, parts = self._within_budget(order, bank)
        rows = {f: r for part in parts for f, r in part.items()}
        retrieved = [self._pages(c, bank) for c in (chosen if self.placement.by_similarity else sorted(chosen))]
        times = self.placement.times(sink, retrieved, recent, chunk.start, size)
        flat = tuple(f for group in retrieved for f in group)
        reachable = frozenset().union(*(range(c * size, (c + 1) * size) for c in candidates))
        return Plan((*sink, *flat, *recent), times, rows=rows, candidates=reachable, retrieved=flat)

    def _pages(self, chunk: int, bank: KVBank) -> list[int]:
        size = self._geometry.chunk
        return [f for f in range(chunk * size, (chunk + 1) * size) if bank.rows(f)]

    def _parts(self, chunk: int, slot: int) -> dict[int, Tensor]:
        """Which rows of a chunk's frames the window takes, when they are chosen at retrieval."""
        if self.compress == "store":
            return {}
        choices = self._kept[chunk]
        return {f: rows for frames, rows in choices[slot % len(choices)] for f in frames}

    def _within_budget(self, order: list[int], bank: KVBank) -> tuple[list[int], list[dict[int, Tensor]]]:
        """The longest prefix of `order` whose cost fits, and which rows the window takes of each; the rest is not looked at."""
        g = self._geometry
        price = {"equivalents": 1 / g.tokens, "tokens": 1, "bytes": g.row_bytes}.get(self.unit, 0)
        left, parts = self.retrieved, []
        for slot, c in enumerate(order):
            part = self._parts(c, slot)
            rows = sum(part[f].shape[1] if f in part else bank.rows(f) for f in self._pages(c, bank))
            left -= g.chunk if self.unit == "frames" else rows * price
            if left < 0 and self.retrieved != inf:
                break
            parts.append(part)
        return order[: len(parts)], parts

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        self.selector.look(q, site)
        return super().attend(q, k, v, site)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        self.selector.observe(chunk, kv)
        if chunk.start >= self.sink:
            self._kept[chunk.index] = [self.compressor.keep(chunk, kv, slot) for slot in range(self.compressor.slots)]
            self._into[chunk.index] = self.compressor.into(chunk, kv, self._kept[chunk.index][0])
        leaving = chunk.index - (self.recent + self.blind) // self._geometry.chunk
        if self.compress == "store" and leaving in self._kept:
            kept, into = self._kept.pop(leaving)[0], self._into.pop(leaving)
            for (frames, rows), target in zip(kept, into or [None] * len(kept), strict=True):
                bank.replace(frames, rows, target)
