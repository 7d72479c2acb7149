"""World Retrieval and World Compression: a retrieval policy composed of a selector, a compressor and a placement."""

from dataclasses import dataclass, field
from math import inf

from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan, Site
from harness.policy import CachePolicy
from policies.parts.compress.base import Compressor, Into, Kept
from policies.parts.place.base import Placement
from policies.parts.select.base import Selector

UNITS = ("equivalents", "frames", "tokens", "bytes")


@dataclass
class RetrievalPolicy(CachePolicy):
    """WorldKV (arXiv 2605.22718, section 4): sink, retrieved chunks, recent chunks, and the chunk itself.

    A chunk that leaves the recent window is compressed and banked; before each chunk the selector orders the banked
    chunks and as many as fit the budget come back. sink and recent are frames before the chunk. `unit` says what
    `retrieved` counts: frame-equivalents of stored rows, whole frames however compressed, tokens, or bytes over all
    layers. compress: at `store` (rows are dropped) or at `retrieve` (the bank keeps whole chunks and the window takes part of
    them: the same rows, no bytes saved). blind and fallback are the released code's quirks: chunks between recent and
    candidates that nothing can reach, and attending to everything until a first candidate exists.
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
        for name, known in (("unit", UNITS), ("compress", ("store", "retrieve"))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"retrieval: {name}={value!r}; use one of {', '.join(known)}")
        if self.retrieved < 0:
            raise ValueError(f"retrieval: retrieved={self.retrieved}; give 0 or more (inf for no limit)")
        self._geometry, self._kept, self._into = geometry, {}, {}
        self.raw_keys, self.needs_attention_scores = self.placement.moves, self.selector.needs_attention_scores or self.compressor.needs_attention_scores
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
        chosen = self._within_budget(order, bank)
        takers = self.selector.takers(candidates, len(chosen))
        chosen = sorted(takers, key=order.index) or chosen
        rows = {f: r for c in chosen for f, r in self._parts(c, order.index(c)).items()}
        seen = {f: heads for c, heads in takers.items() for f in self._pages(c, bank)}
        retrieved = [self._pages(c, bank) for c in (chosen if self.placement.by_similarity else sorted(chosen))]
        times = self.placement.times(sink, retrieved, recent, chunk.start, size)
        flat = tuple(f for group in retrieved for f in group)
        reachable = frozenset().union(*(range(c * size, (c + 1) * size) for c in candidates))
        return Plan((*sink, *flat, *recent), times, rows=rows, seen=seen, candidates=reachable, retrieved=flat)

    def _pages(self, chunk: int, bank: KVBank) -> list[int]:
        return [f for f in range(chunk * self._geometry.chunk, (chunk + 1) * self._geometry.chunk) if bank.rows(f)]

    def _parts(self, chunk: int, slot: int) -> dict[int, Tensor]:
        """Which rows of a chunk's frames the window takes, when they are chosen at retrieval."""
        if self.compress == "store":
            return {}
        return {f: rows for frames, rows in self._kept[chunk][slot % len(self._kept[chunk])] for f in frames}

    def _within_budget(self, order: list[int], bank: KVBank) -> list[int]:
        """The longest prefix of `order` whose cost fits; absent rows cost nothing."""
        g = self._geometry
        price = {"equivalents": 1 / g.tokens, "tokens": 1, "bytes": g.row_bytes}.get(self.unit, 0)
        left = self.retrieved
        for i, c in enumerate(order):
            part = {f: (rows >= 0).sum(1).float().mean().item() for f, rows in self._parts(c, i).items()}
            left -= g.chunk if self.unit == "frames" else price * sum(part.get(f, bank.held(f)) for f in self._pages(c, bank))
            if left < 0 and self.retrieved != inf:
                return order[:i]
        return order

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if not site.cross:
            self.selector.look(q, site)
            self.compressor.look(q, k, site)
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
