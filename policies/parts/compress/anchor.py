"""World Compression: the anchor frame whole, of the others the tokens that are least like it."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry, Site
from harness.settings.ranges import Share
from policies.parts.compress.base import Compressor, Kept, lowest, share_of
from policies.parts.concatenated import EPS, length, unit
from policies.parts.split.base import Split, Uniform

SIMILARITIES = ("mean", "centroid", "colocated", "max")


@dataclass
class AnchorCompressor(Compressor):
    """WorldKV section 4.2: keep `ratio` of the non-anchor tokens, those with the lowest similarity to the anchor frame.

    similarity: mean (cosine to every anchor key, averaged: the paper), centroid (cosine to the mean anchor key: the
    released code), colocated (cosine to the anchor key of the same place: what changed in the picture) or max (cosine to
    the nearest anchor key: content that the anchor frame has nowhere); the last two are ablations. keys: rotated (the
    released code; the score mixes content with place) or raw (before RoPE: content alone). Heads are concatenated,
    layers are independent.
    budget: frame (ceil(ratio * tokens) for each frame) or pooled (the same total over the non-anchor frames together).
    rotate: the anchor is not the chunk's first frame but the one of its place in the order of retrieval (a flag of the
    released code, only for compression at retrieval).
    split: how layers share out what is kept of the non-anchor tokens (as many on average; uniform in the paper).
    A 3-frame chunk keeps (1 + 2 * ratio) / 3 of its rows: half of them at the paper's 0.25. A chunk of one frame is its own
    anchor and stays whole. Where ratio * tokens is no whole number, rounding up makes that a little more than half, and a window that has room for
    6 halves takes 5 (the published backbones have 880, 1,456, 1,560 and 1,872 tokens a frame, which 4 divides).

    Uncertain: the paper's similarity, which we know from summaries of it alone.
    """

    ratio: Share = 0.25
    similarity: Literal["mean", "centroid", "colocated", "max"] = "mean"
    budget: Literal["frame", "pooled"] = "frame"
    keys: Literal["rotated", "raw"] = "rotated"
    rotate: bool = False
    split: Split = field(default_factory=Uniform)

    def reset(self, geometry: Geometry) -> None:
        self._tokens, self._chunk, self._layers, self._ranks = geometry.tokens, geometry.chunk, geometry.layers, geometry.ranks
        self.split.reset(geometry)
        self.joint, self.needs_attention_scores = self.budget == "pooled", self.split.needs_attention_scores

    def look(self, q: Tensor, k: Tensor, site: Site) -> None:
        self.split.look(q, k, site)

    @property
    def slots(self) -> int:
        return self._chunk if self.rotate else 1

    def keep(self, chunk: Chunk, kv: KV, slot: int = 0) -> Kept:
        n, anchor = share_of(self.ratio, self._tokens), slot % self.slots
        others = [i for i in range(len(chunk.frames)) if i != anchor]
        if not others:
            return []
        frames = [chunk.frames[i] for i in others]
        keys = kv.k if self.keys == "rotated" else kv.k_raw
        score = self._similarity(keys.unflatten(2, (len(chunk.frames), self._tokens)), anchor, others)
        if self.budget == "pooled":
            return [(tuple(frames), lowest(score.flatten(1), self._counts(n * len(frames), self._tokens * len(frames))))]
        return [((frame,), lowest(score[:, i], self._counts(n, self._tokens))) for i, frame in enumerate(frames)]

    def _counts(self, mean: int, cap: int) -> list[int]:
        return self.split.counts(mean, [cap] * self._layers)

    def _similarity(self, k: Float[Tensor, "l b f s h d"], at: int, others: list[int]) -> Float[Tensor, "l g s"]:
        """Cosine of the keys of the other frames to those of the anchor frame, heads concatenated, rollouts averaged."""
        keys = k.flatten(4).float()
        anchor = keys[:, :, at]
        direction = unit(anchor.mean(2) if self.similarity == "centroid" else anchor, self._ranks)
        scores = []
        for i in others:  # a frame at a time: less scratch
            frame = keys[:, :, i]
            if self.similarity == "colocated":
                dot = self._ranks.sum((frame * direction).sum(-1))
            elif self.similarity == "max":
                dot = self._ranks.sum(frame @ direction.mT).amax(-1)
            else:
                dot = self._ranks.sum((frame @ (direction if self.similarity == "centroid" else direction.mean(2))[..., None])[..., 0])
            scores.append((dot / length(frame, self._ranks)[..., 0].clamp(min=EPS)).mean(1))
        return torch.stack(scores, 1)
