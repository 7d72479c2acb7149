"""World Retrieval and World Compression: a retrieval policy composed of a selector, a compressor and a placement."""

from dataclasses import dataclass, field
from math import inf

from jaxtyping import Int
from torch import Tensor

from harness.bank import KVBank
from harness.policy import CachePolicy
from harness.types import KV, Chunk, Geometry, Plan, Site
from policies.compress.base import Compressor
from policies.place.base import Placement
from policies.select.base import Selector

UNITS = ("equivalents", "frames", "tokens", "bytes")


@dataclass
class RetrievalPolicy(CachePolicy):
    """WorldKV (arXiv 2605.22718, section 4): sink, retrieved chunks, recent chunks, and the chunk itself.

    A chunk that leaves the recent window is compressed and banked; before each chunk the selector orders the banked
    chunks and as many as fit the budget come back. sink and recent are frames before the chunk. `unit` says what
    `retrieved` counts: frame-equivalents of stored rows, whole frames however compressed, tokens, or bytes over all
    layers. blind and fallback are the released code's quirks: chunks between recent and candidates that nothing can
    reach, and attending to everything until a first candidate exists.
    """

    selector: Selector
    compressor: Compressor
    placement: Placement
    sink: int = 3
    recent: int = 3
    retrieved: float = 9
    unit: str = "equivalents"
    blind: int = 0
    fallback: bool = False
    _keep: dict[int, list[tuple[tuple[int, ...], Int[Tensor, "l n"]]]] = field(default_factory=dict, init=False, repr=False)

    def reset(self, geometry: Geometry) -> None:
        for name in ("sink", "recent", "blind"):
            if (value := getattr(self, name)) < 0 or value % geometry.chunk:
                raise ValueError(f"retrieval: {name}={value} frames is not a whole number of chunks of {geometry.chunk}; use {value - value % geometry.chunk}")
        if self.unit not in UNITS:
            raise ValueError(f"retrieval: unit={self.unit!r}; use one of {', '.join(UNITS)}")
        if self.retrieved < 0:
            raise ValueError(f"retrieval: retrieved={self.retrieved}; give 0 or more (inf for no limit)")
        self._geometry, self._keep = geometry, {}
        self.raw_keys = self.placement.moves
        self.selector.reset(geometry)
        self.compressor.reset(geometry)

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        size = self._geometry.chunk
        sink = [f for f in range(self.sink) if f < chunk.start]
        recent = list(range(max(self.sink, chunk.start - self.recent), chunk.start))
        last = (chunk.start - self.recent - self.blind) // size
        candidates = list(range(self.sink // size, max(self.sink // size, last)))
        if self.fallback and not candidates:
            return Plan.of_frames(bank.frames)
        pages = {c: [f for f in range(c * size, (c + 1) * size) if bank.rows(f)] for c in candidates}
        chosen = self._within_budget(self.selector.order(chunk, candidates), pages, bank)
        retrieved = [pages[c] for c in (chosen if self.placement.by_similarity else sorted(chosen))]
        times = self.placement.times(sink, retrieved, recent, chunk.start, size)
        flat = tuple(f for group in retrieved for f in group)
        reachable = frozenset(f for c in candidates for f in range(c * size, (c + 1) * size))
        return Plan((*sink, *flat, *recent), times, candidates=reachable, retrieved=flat)

    def _within_budget(self, order: list[int], pages: dict[int, list[int]], bank: KVBank) -> list[int]:
        """The longest prefix of `order` whose cost fits."""
        g = self._geometry
        cost = {
            "equivalents": lambda c: sum(bank.rows(f) for f in pages[c]) / g.tokens,
            "frames": lambda c: g.chunk,
            "tokens": lambda c: sum(bank.rows(f) for f in pages[c]),
            "bytes": lambda c: sum(bank.rows(f) for f in pages[c]) * g.row_bytes,
        }[self.unit]
        chosen, left = [], self.retrieved
        for c in order:
            left -= cost(c)
            if left < 0 and self.retrieved != inf:
                break
            chosen.append(c)
        return chosen

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        self.selector.look(q, site)
        return super().attend(q, k, v, site)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        self.selector.observe(chunk, kv)
        size = self._geometry.chunk
        if chunk.start >= self.sink:
            self._keep[chunk.index] = self.compressor.keep(chunk, kv)
        leaving = chunk.index - (self.recent + self.blind) // size
        for frames, rows in self._keep.pop(leaving, []):
            bank.replace(frames, rows)
