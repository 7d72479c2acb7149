"""A selector orders the banked chunks for the next one; it never touches bytes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from jaxtyping import Bool, Float
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry, Site


class Selector(ABC):
    """State starts at `reset`. Candidates and answers are chunk indices; ties are broken by index, older first. needs_attention_scores:
    whether it reads the queries that pass by. probes: whether it needs those of the chunk to come, from a pass before planning; both
    are known after `reset`. tries: whether it reads `Chunk.trial`. sees_truth: whether it reads `Chunk.overlap`, which is not known ahead."""

    needs_attention_scores: bool = False
    probes: bool = False
    tries: bool = False
    sees_truth: bool = False

    def reset(self, geometry: Geometry) -> None: ...

    def observe(self, chunk: Chunk, kv: KV) -> None:
        """A chunk was generated; remember of it what ordering needs."""

    def eligible(self, candidates: list[int]) -> list[int]:
        """Those of the candidates that it may choose, now or ever; the others are unreachable."""
        return candidates

    def forget(self, chunk: int) -> None:
        """A chunk is in the bank no more: it will neither be a candidate nor in a window again."""

    def look(self, q: Float[Tensor, "b m h d"], site: Site) -> None:
        """The rotated queries of an attention call pass by."""

    @abstractmethod
    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterable[int]:
        """Candidates by falling relevance for `chunk`. window: frames that it attends to in any case (sink and recent).
        May be made one after the other: a policy takes as many as fit its budget."""

    def takers(self, candidates: list[int], count: int) -> dict[int, Bool[Tensor, "l h"]]:
        """After `order`, for selectors whose layers or heads choose by themselves: the chunks that any of them takes, and which
        do, each taking `count`; by falling relevance. {}: all take the same, the first of `order`."""
        return {}

    def soon(self, count: int) -> list[int]:
        """After `order`: at most `count` candidates that the chunks after this one will likely want, the most urgent first."""
        return []


class SelectorWrapper(Selector):
    """A selector around a selector: everything passes through until a subclass overrides it."""

    inner: Selector

    def reset(self, geometry: Geometry) -> None:
        self.inner.reset(geometry)
        self.probes, self.needs_attention_scores, self.tries = self.inner.probes, self.inner.needs_attention_scores, self.inner.tries
        self.sees_truth = self.inner.sees_truth

    def observe(self, chunk: Chunk, kv: KV) -> None:
        self.inner.observe(chunk, kv)

    def eligible(self, candidates: list[int]) -> list[int]:
        return self.inner.eligible(candidates)

    def forget(self, chunk: int) -> None:
        self.inner.forget(chunk)

    def look(self, q: Float[Tensor, "b m h d"], site: Site) -> None:
        self.inner.look(q, site)

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterable[int]:
        return self.inner.order(chunk, candidates, window)

    def takers(self, candidates: list[int], count: int) -> dict[int, Bool[Tensor, "l h"]]:
        return self.inner.takers(candidates, count)

    def soon(self, count: int) -> list[int]:
        return self.inner.soon(count)


def at_own_positions(q: Float[Tensor, "b m h d"], site: Site, size: int) -> Float[Tensor, "b m h d"]:
    """The queries of a call, rotated at the chunk's own positions, as `KV.k` is, where the plan numbered them anew. size: frames of a chunk."""
    if site.positions is None or site.rope is None or site.raw_q is None or (moved := site.chunk * size - site.positions[0, 0]) == 0:
        return q
    positions = site.positions.clone()
    positions[:, 0] += moved
    return site.rope(positions)(site.raw_q)


def by_score(scores: list[float], candidates: list[int]) -> list[int]:
    """Candidates by falling score, ties by index."""
    return [c for _, c in sorted(zip([-s for s in scores], candidates, strict=True))]
