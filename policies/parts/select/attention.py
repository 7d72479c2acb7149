"""Order by attention: pooled queries against pooled keys."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry, Site
from policies.parts.chunk_table import ChunkTable
from policies.parts.select.base import Selector, at_own_positions, by_score


@dataclass
class AttentionSelector(Selector):
    """WorldKV's other signal (arXiv 2605.22718, appendix C): the chunk's queries, pooled over its rows, against the pooled keys of every banked
    frame; averaged over layers and heads, best frame of a chunk.

    queries: `current` (of a probe pass over sink and recent frames, see the `query` selector) or `last` (the last chunk's clean
    pass). Uncertain: the appendix's numbers and when it takes the queries are not known.
    """

    needs_attention_scores = True  # without annotation: not a field

    queries: Literal["current", "last"] = "current"

    def reset(self, geometry: Geometry) -> None:
        self.probes = self.queries == "current"
        self._chunk, self._layers, self._geometry = geometry.chunk, geometry.layers, geometry
        self._keys = ChunkTable()
        self._keys.reset()
        self._queries: dict[int, Tensor] = {}

    def look(self, q: Tensor, site: Site) -> None:
        if site.probe if self.probes else site.clean:
            self._queries[site.layer] = at_own_positions(q, site, self._chunk).float().mean((0, 1))  # in bfloat16 scores would tie

    def observe(self, chunk: Chunk, kv: KV) -> None:
        self._keys.put(chunk.index, kv.k.float().unflatten(2, (self._chunk, -1)).mean((1, 3)))

    def forget(self, chunk: int) -> None:
        self._keys.forget(chunk)

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        if not candidates:
            return []
        q = torch.stack([self._queries[layer] for layer in range(self._layers)])
        (k,) = self._keys.take(candidates)
        logits = torch.einsum("lhd,clfhd->cfh", q, k) / (self._layers * q.shape[2] ** 0.5)
        scores = self._geometry.mean_over_heads(logits, 2).amax(1)
        return by_score(scores.tolist(), candidates)
