"""Order by what the queries ask for: pooled queries against summaries of the keys."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry, Site
from harness.settings.ranges import Count
from policies.parts.chunk_table import ChunkTable
from policies.parts.select.base import Selector, at_own_positions, by_score


@dataclass
class QuerySelector(Selector):
    """Query retrieval without poses: mean(q) . mean(k) of every frame (MoC, arXiv 2508.21058; MemFlow, arXiv 2512.14699), or
    Quest's upper bound from each channel's least and greatest key (arXiv 2406.10774), a frame as the page.

    queries: `current` (the chunk's own, of a probe pass over sink and recent frames: its first pass, noisy, and once more than
    without; the choice is then frozen for the other passes) or `last` (the last chunk's clean pass, which looks where the
    camera was). They are pooled over `parts` consecutive runs of the chunk's rows and rotated, so that the scores are the logits
    of absolute placement. heads:
    `sum` adds the logits of all layers and heads, `vote` lets each softmax over the candidates first, so that none
    outweighs the rest. per: whether all layers share one choice, or each layer, or each head chooses by itself; the window
    then holds what any of them takes, and each attends to its own. Simplified: MemFlow's bank is chosen by its prompt's keys,
    heads then choose among 3 latents by their queries. Uncertain: MoC chooses per query token, and both are trained for it;
    Quest's pages are 16 tokens (the policy `quest`).
    """

    needs_attention_scores = True  # without annotation: not a field

    bound: Literal["mean", "quest"] = "mean"
    heads: Literal["vote", "sum"] = "vote"
    parts: Count = 1
    queries: Literal["current", "last"] = "current"
    per: Literal["shared", "layer", "head"] = "shared"

    def reset(self, geometry: Geometry) -> None:
        self.probes = self.queries == "current"
        if (geometry.chunk * geometry.tokens) % self.parts:
            raise ValueError(f"query selector: parts={self.parts} does not divide the {geometry.chunk * geometry.tokens} rows of a chunk")
        if self.per == "head":
            geometry.check_alone("query selector with per=head")
        self._chunk, self._layers, self._geometry = geometry.chunk, geometry.layers, geometry
        self._keys = ChunkTable()
        self._keys.reset()
        self._queries: dict[int, Tensor] = {}  # layer -> p h d
        self._scores: Tensor | None = None  # of the last `order`: c l h

    def look(self, q: Tensor, site: Site) -> None:
        if site.probe if self.probes else site.clean:
            q = at_own_positions(q, site, self._chunk)
            self._queries[site.layer] = q.unflatten(1, (self.parts, -1)).float().mean((0, 2))

    def observe(self, chunk: Chunk, kv: KV) -> None:
        k = kv.k.unflatten(2, (self._chunk, -1)).float()  # l b f s h d
        summary = [k.mean(3)] if self.bound == "mean" else [k.amin(3), k.amax(3)]
        self._keys.put(chunk.index, torch.stack(summary).mean(2))

    def forget(self, chunk: int) -> None:
        self._keys.forget(chunk)

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        if not candidates:
            return []
        q = torch.stack([self._queries[layer] for layer in range(self._layers)])
        (k,) = self._keys.take(candidates)
        # the greatest logit that keys between the two summaries can give: each sign of q takes the extreme that serves it
        logits = torch.einsum("lphd,clfhd->cflhp", q.clamp(max=0), k[:, 0]) + torch.einsum("lphd,clfhd->cflhp", q.clamp(min=0), k[:, -1])
        best = logits.amax(1) / q.shape[-1] ** 0.5
        self._scores = (best.softmax(0) if self.heads == "vote" else best).mean(3)  # c l h
        return by_score(self._over_all(), candidates)

    def takers(self, candidates: list[int], count: int) -> dict[int, Tensor]:
        if self.per == "shared" or not count:
            return {}
        assert self._scores is not None, "order was called"
        scores = self._scores if self.per == "head" else self._geometry.mean_over_heads(self._scores, 2)[..., None].expand_as(self._scores)
        rank = scores.argsort(dim=0, descending=True, stable=True).argsort(0)
        takers = {c: r < count for c, r in zip(candidates, rank, strict=True) if (r < count).any()}
        return {c: takers[c] for c in by_score(self._over_all(), candidates) if c in takers}

    def _over_all(self) -> list[float]:
        """Scores of candidates over all layers and heads."""
        assert self._scores is not None, "order was called"
        return self._geometry.mean_over_heads(self._scores.mean(1), 1).tolist()
