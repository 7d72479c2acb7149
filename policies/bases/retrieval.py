"""World Retrieval and World Compression: a retrieval policy composed of a selector, a compressor and a placement."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan, Site
from harness.policy import CachePolicy
from harness.settings.ranges import Limit, Natural
from policies.parts.compress.base import Compressor, Into, KeepAll, Kept
from policies.parts.place.base import Placement
from policies.parts.select.base import Selector
from policies.parts.window import Window, affordable, head_rows, limit_of


@dataclass
class RetrievalPolicy(CachePolicy):
    """WorldKV (arXiv 2605.22718, section 4): sink, retrieved chunks, recent chunks, and the chunk itself.

    A chunk that leaves the recent window is compressed and banked; before each chunk the selector orders the banked chunks and as
    many as fit the budget come back. sink and recent are frames before the chunk, whole chunks or not: a chunk that the sink
    reaches into is kept whole, and one that leaves the recent frames is compressed once it has left. `unit` says what `retrieved`
    counts: frame-equivalents of stored rows, whole frames however compressed, tokens, or bytes over all layers. compress: at
    `store` (rows are dropped) or at `retrieve` (the bank keeps whole chunks and the window takes part of them: the same rows, no
    bytes saved). blind and fallback are the released code's quirks: chunks between recent and candidates that nothing can reach,
    and attending to everything until a first candidate exists.
    """

    selector: Selector
    compressor: Compressor
    placement: Placement
    sink: Natural = 3
    recent: Natural = 3
    retrieved: Limit = 9
    unit: Literal["equivalents", "frames", "tokens", "bytes"] = "equivalents"
    compress: Literal["store", "retrieve"] = "store"
    blind: Natural = 0
    fallback: bool = False
    retrieves = True
    _kept: dict[int, list[Kept]] = field(default_factory=dict, init=False, repr=False)  # chunk -> choice for each slot
    _into: dict[int, Into | None] = field(default_factory=dict, init=False, repr=False)  # chunk -> where the other rows go

    def reset(self, geometry: Geometry) -> None:
        self._geometry, self._kept, self._into, self._observed = geometry, {}, {}, set[int]()
        self.selector.reset(geometry)
        self.compressor.reset(geometry)  # what the parts need is known now
        self.raw_keys = self.placement.moves
        self.needs_attention_scores = self.selector.needs_attention_scores or self.compressor.needs_attention_scores
        self.probes, self.tries, self.compresses = self.selector.probes, self.selector.tries, not isinstance(self.compressor, KeepAll)
        self.placement.check(self.compressor)
        if self.compress == "store" and self.compressor.slots > 1:
            raise ValueError("retrieval: compressor.rotate follows the order of retrieval; it needs compress=retrieve")
        if self.compress == "retrieve" and self.compressor.joint:
            raise ValueError("retrieval: compress=retrieve chooses rows frame by frame; use compressor.budget=frame, or compress=store")

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        window, size = self._window, self._geometry.chunk
        sink, recent = window.fixed(chunk.start)
        if chunk.probing:
            return Plan((*sink, *recent), self.placement.times(sink, [], recent, chunk.start, size))
        for gone in self._observed - (banked := {f // size for f in bank.frames}):  # that a policy around this one dropped
            self.selector.forget(gone)
            self._kept.pop(gone, None)
            self._into.pop(gone, None)
        self._observed &= banked
        candidates = self.selector.eligible([c for c in window.chunks(chunk.start) if c in banked])
        if self.fallback and not candidates:
            return Plan.of_frames(bank.frames)
        order = self.selector.order(chunk, candidates, [*sink, *recent])
        limit = limit_of(self.retrieved, self.unit, self._geometry)
        chosen = affordable(order, limit, lambda c, slot: self._cost(c, slot, chunk.start, bank))
        heads_of = self.selector.takers(candidates, len(chosen))  # where heads choose for themselves
        chosen = list(heads_of) or chosen
        pages = {c: window.pages(c, chunk.start, bank) for c in chosen}
        rows = {f: r for slot, c in enumerate(chosen) for f, r in self._parts(c, slot).items() if f in pages[c]}
        seen = {f: heads for c, heads in heads_of.items() for f in pages[c]}
        retrieved = [pages[c] for c in (chosen if self.placement.by_similarity else sorted(chosen))]
        times = self.placement.times(sink, retrieved, recent, chunk.start, size)
        flat = tuple(f for group in retrieved for f in group)
        reachable = window.reachable(chunk.start, candidates) if chosen or not candidates else frozenset()  # the budget may bring none back
        soon = tuple(f for c in self.selector.soon(len(chosen)) if c not in chosen for f in window.pages(c, chunk.start, bank))
        return Plan((*sink, *flat, *recent), times, rows=rows, seen=seen, candidates=reachable, retrieved=flat, soon=soon)

    @property
    def _window(self) -> Window:
        return Window(self.sink, self.recent, self._geometry.chunk, self.blind)

    def _parts(self, chunk: int, slot: int) -> dict[int, Tensor]:
        """Which rows of a chunk's frames the window takes, when they are chosen at retrieval."""
        if self.compress == "store" or chunk not in self._kept:
            return {}
        return {f: rows for frames, rows in self._kept[chunk][slot % len(self._kept[chunk])] for f in frames}

    def _cost(self, chunk: int, slot: int, start: int, bank: KVBank) -> int:
        """What a chunk at a place in the order takes of the limit; absent rows cost nothing."""
        if self.unit == "frames":
            return len(self._window.part(chunk, start))
        return head_rows(self._window.pages(chunk, start, bank), bank, self._parts(chunk, slot))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if not site.cross:
            self.selector.look(q, site)
            self.compressor.look(q, k, site)
        return super().attend(q, k, v, site)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        self.selector.observe(chunk, kv)
        self._observed.add(chunk.index)
        if chunk.start >= self.sink:
            self._kept[chunk.index] = [self.compressor.keep(chunk, kv, slot) for slot in range(self.compressor.slots)]
            self._into[chunk.index] = self.compressor.into(chunk, kv, self._kept[chunk.index][0])
        leaving = self._window.leaving(chunk.index)
        if self.compress == "store" and leaving in self._kept:
            kept, into = self._kept.pop(leaving)[0], self._into.pop(leaving)
            for (frames, rows), target in zip(kept, into or [None] * len(kept), strict=True):
                bank.replace(frames, rows, target)
