"""Merge instead of prune: rows that a compressor would drop live on in the nearest row that it keeps."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry, Site
from policies.parts.compress.base import Compressor, Into, Kept, rows_of
from policies.parts.concatenated import unit


@dataclass
class MergeCompressor(Compressor):
    """Around any compressor: every dropped row joins the kept row of its chunk whose raw key is the most similar (heads
    concatenated, layers apart). The value becomes the members' mean, and log(count) is added to the logit, so that
    merging equal keys changes nothing (TempCache's identity, arXiv 2602.01801; CaM and kvpress's MergingPress fold values
    into the most similar survivor and leave its key alone). The chunk becomes one page.

    Uncertain: TempCache keeps the newest key of a group, here the compressor chooses; whether its log(count) is used at
    inference or only explains it; how well it serves keys that are only close.
    """

    inner: Compressor
    joint = True

    def reset(self, geometry: Geometry) -> None:
        self.inner.reset(geometry)
        self.needs_attention_scores = self.inner.needs_attention_scores
        if self.inner.slots > 1:
            raise ValueError("merge compressor: the inner compressor's anchor follows the order of retrieval; set rotate=false")
        self._tokens, self._ranks = geometry.tokens, geometry.ranks

    def look(self, q: Tensor, k: Tensor, site: Site) -> None:
        self.inner.look(q, k, site)

    def keep(self, chunk: Chunk, kv: KV, slot: int = 0) -> Kept:
        size = self._tokens * len(chunk.frames)
        start = dict(zip(chunk.frames, range(0, size, self._tokens), strict=True))
        stays = torch.ones(len(kv.k), size, dtype=torch.bool)
        for frames, rows in self.inner.keep(chunk, kv):
            at = torch.cat([torch.arange(start[f], start[f] + self._tokens) for f in frames])
            stays[:, at] = torch.zeros(len(rows), len(at) + 1, dtype=torch.bool).scatter(1, rows.cpu() % (len(at) + 1), True)[:, :-1]
        return [(chunk.frames, rows_of(stays).to(kv.k.device))]

    def into(self, chunk: Chunk, kv: KV, kept: Kept) -> Into:
        rows = kept[0][1]
        if not rows.shape[1]:  # nothing is kept that the others could live on in
            return [rows.new_zeros(len(rows), self._tokens * len(chunk.frames))]
        keys = unit(kv.k_raw.flatten(3).float(), self._ranks)  # l b m c
        target = torch.stack([self._nearest(x, r) for x, r in zip(keys, rows, strict=True)])
        own, size = torch.arange(rows.shape[1], device=rows.device).expand_as(rows), target.shape[1]
        return [F.pad(target, (0, 1)).scatter(1, rows % (size + 1), own)[:, :size]]  # a kept row stays itself, whatever else is as near

    def _nearest(self, keys: Tensor, rows: Tensor) -> Tensor:
        """For each row of a layer the place among `rows` of the one with the greatest cosine; rollouts averaged."""
        return self._ranks.sum((keys @ keys[:, rows].mT).mean(0)).masked_fill(rows < 0, -torch.inf).argmax(-1)
