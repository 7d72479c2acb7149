"""Score pages of rows by the greatest logit that any of their keys could have."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Site
from harness.settings.ranges import Count
from policies.parts.score.base import Scorer


@dataclass
class QuestScorer(Scorer):
    """Quest (arXiv 2406.10774): a page of 16 rows is worth sum_c max(q_c * least_c, q_c * greatest_c), its keys' extremes in
    each channel; no key of the page has a greater logit. The best pages are attended to, nothing is dropped.

    queries: `current` (a probe pass over sink and recent frames: the chunk's first pass once more than without) or `last` (the
    clean pass of the last chunk). q: its rows pooled in `parts` consecutive runs, the best of which counts; rotated, as
    are the keys. Pages do not reach over frames; a budget that is no whole number of pages takes part of the last one.
    The extremes take 1 / page of the rows' bytes more (`scratch`), and every plan reads them all: its time grows with the past.
    Uncertain: Quest decides anew for every query token, here a plan is made once and frozen for all passes; it leaves its
    first two layers dense, which here would need a window of the whole past.
    """

    page: Count = 16
    parts: Count = 3
    queries: Literal["current", "last"] = "current"
    drops = False

    def reset(self, geometry: Geometry) -> None:
        rows = geometry.chunk * geometry.tokens
        if rows % self.parts:
            raise ValueError(f"quest scorer: parts={self.parts}; use parts that divide the {rows} rows of a chunk")
        self.probes = self.queries == "current"
        self._layers, self._tokens = geometry.layers, geometry.tokens
        self._extremes: dict[int, Tensor] = {}  # frame -> extremes of its pages, p l h 2 d
        sizes = [min(self.page, self._tokens - first) for first in range(0, self._tokens, self.page)]
        self._sizes = sizes  # rows of the pages of a frame
        self.run = self.page if len(set(sizes)) == 1 and sizes[0] == self.page else 1
        self._queries: dict[int, Tensor] = {}  # layer -> parts h d

    def look(self, q: Tensor, k: Tensor, site: Site) -> None:
        if site.probe if self.probes else site.clean:
            self._queries[site.layer] = q.unflatten(1, (self.parts, -1)).float().mean((0, 2))

    def observe(self, chunk: Chunk, kv: KV) -> None:
        for frame, keys in zip(chunk.frames, kv.k.float().split(self._tokens, 2), strict=True):
            pages = keys.split(self.page, 2)
            self._extremes[frame] = torch.stack([torch.stack([p.amin((1, 2)), p.amax((1, 2))], 2) for p in pages])

    def score(self, frames: tuple[int, ...], bank: KVBank) -> Tensor:
        for gone in self._extremes.keys() - set(bank.frames):  # that a wrapper has dropped
            del self._extremes[gone]
        q = torch.stack([self._queries[layer] for layer in range(self._layers)])  # l q h d
        ends = torch.cat([self._extremes[f] for f in frames]).flatten(3)  # p l h (2 d)
        bound = torch.einsum("lqhd,plhd->plhq", torch.cat([q.clamp(max=0), q.clamp(min=0)], -1), ends).amax(-1)
        bound = bound.transpose(0, 1)
        return bound if self.run > 1 else bound.repeat_interleave(torch.tensor(self._sizes * len(frames), device=bound.device), 1)

    def keep(self, frames: tuple[int, ...], rows: Tensor) -> None:
        raise AssertionError("Quest drops no rows")
